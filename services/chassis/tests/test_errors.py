"""
What is raised below arrives at the client as a status with a reason.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from services.chassis import errors
from services.chassis.serving.context import Context
from services.chassis.tests.in_process import (
    bidi,
    client_stream,
    details,
    failure,
    path,
    server_stream,
    trailer,
    unary,
    wired,
)


def _raising(error: BaseException) -> Any:
    async def handler(_request: Any, _context: Context) -> bytes:
        raise error

    return handler


async def _failing(error: BaseException) -> grpc.aio.AioRpcError:
    async with wired(Do=unary(_raising(error))) as channel:
        return await failure(channel.unary_unary(path("Do"))(b""))


_SIMPLE = [
    errors.FailedPrecondition,
    errors.Aborted,
    errors.OutOfRange,
    errors.ResourceExhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.Unimplemented,
    errors.DataLoss,
    errors.Internal,
]


@pytest.mark.parametrize("kind", _SIMPLE)
async def test_each_error_is_the_status_of_its_name(kind: type[errors.ModelyardError]) -> None:
    """
    An error arrives with the code of its class, its own message, and its reason and metadata as an ErrorInfo.
    """
    error = await _failing(kind("SOME_REASON", "what to do", metadata={"limit": "10"}))
    assert error.code().name.replace("_", "").lower() == kind.__name__.lower()
    assert error.details() == "what to do"
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == ("SOME_REASON", "modelyard.dev", {"limit": "10"})


@pytest.mark.parametrize("kind", [errors.NotFound, errors.AlreadyExists])
async def test_errors_about_a_resource_name_it(kind: type[errors.NotFound | errors.AlreadyExists]) -> None:
    """
    NOT_FOUND and ALREADY_EXISTS carry the resource, with its collection as its type.
    """
    error = await _failing(kind("MODEL_X", "namespaces/a/models/m"))
    assert error.code().name.replace("_", "").lower() == kind.__name__.lower()
    found = details(error)["ResourceInfo"]
    assert (found.resource_type, found.resource_name) == ("models", "namespaces/a/models/m")
    assert "namespaces/a/models/m" in (error.details() or "")


async def test_every_wrong_field_is_named() -> None:
    """
    INVALID_ARGUMENT lists all fields that were collected, in order, parts of the request under their path.
    """
    wrong = errors.Violations()
    wrong.add("model.display_name", "must be at most 256 characters")
    wrong.extend([errors.FieldViolation("score", "must be a number")], under="evaluations[3]")
    wrong.extend([errors.FieldViolation("", "must not be empty")], under="mask")
    with pytest.raises(errors.InvalidArgument) as caught:
        wrong.raise_if_any()
    error = await _failing(caught.value)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [(each.field, each.description) for each in details(error)["BadRequest"].field_violations] == [
        ("model.display_name", "must be at most 256 characters"),
        ("evaluations[3].score", "must be a number"),
        ("mask", "must not be empty"),
    ]


def test_nothing_collected_raises_nothing() -> None:
    """
    A collector without violations lets the request pass.
    """
    errors.Violations().raise_if_any()


async def test_retry_after_says_when() -> None:
    """
    A known waiting time is sent as RetryInfo; an unknown one is not made up.
    """
    found = details(await _failing(errors.Unavailable("DOWN", "later", retry_after=1.5)))
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1500
    assert "RetryInfo" not in details(await _failing(errors.Unavailable("DOWN", "later")))


async def test_unexpected_errors_do_not_leak(caplog: pytest.LogCaptureFixture) -> None:
    """
    The client of a bug gets INTERNAL and a request id, nothing else; the log gets it once, traceback and id included.
    """
    error = await _failing(RuntimeError("password=hunter2"))
    assert error.code() is grpc.StatusCode.INTERNAL
    request_id = trailer(error, "x-request-id")
    assert error.details() == f"internal error, request id {request_id}"
    assert b"hunter2" not in trailer(error, "grpc-status-details-bin")
    records = [each for each in caplog.records if each.exc_info and each.exc_info[0] is RuntimeError]
    assert [each.levelno for each in records] == [logging.ERROR]
    assert "test.Yard/Do" in records[0].getMessage()


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument(errors.FieldViolation(f"requests[{n}].name", "ü" * 400) for n in range(10_000)),
        errors.NotFound("MODEL_NOT_FOUND", "namespaces/a/models/" + "m" * 1_000_000),
        errors.FailedPrecondition("LONG", "ü" * 1_000_000, metadata={"text": "ü" * 100_000}),
        errors.FailedPrecondition("ODD", "a lone surrogate \ud800, a newline\nand a nul \0"),
    ],
    ids=["many", "long-name", "long-message", "odd"],
)
async def test_errors_fit_into_trailers(error: errors.ModelyardError) -> None:
    """
    However much is wrong, and whatever the text holds, the status arrives and is not lost to a limit of the transport.
    """
    answer = await _failing(error)
    assert answer.code().name == error.code
    assert details(answer)["ErrorInfo"].reason == error.reason
    # 8 KiB is where clients start to refuse; the message is percent-encoded, the details go as base64.
    message = len(quote(answer.details() or "", safe=" "))
    assert message + len(trailer(answer, "grpc-status-details-bin")) * 4 / 3 < 7000


async def test_violations_left_out_are_counted() -> None:
    """
    Where not all violations fit, the last one says how many more there are.
    """
    many = errors.InvalidArgument(errors.FieldViolation(f"names[{n}]", "x" * 100) for n in range(1000))
    shown = details(await _failing(many))["BadRequest"].field_violations
    assert shown[-1].description == f"and {1000 - (len(shown) - 1)} more"


async def test_all_four_kinds_answer_alike() -> None:
    """
    A stream that raises ends with the same status as a unary call, after the messages that it had sent.
    """

    async def stream(_request: Any, _context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise errors.Aborted("ETAG_MISMATCH", "read again")

    async def both(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            async for response in stream(request, context):
                yield response

    raising = _raising(errors.Aborted("ETAG_MISMATCH", "read again"))

    async def reading(requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([await raising(request, context) async for request in requests])

    async with wired(A=unary(raising), B=server_stream(stream), C=client_stream(reading), D=bidi(both)) as channel:
        streams = [channel.unary_stream(path("B"))(b""), channel.stream_stream(path("D"))(iter([b""]))]
        for call in streams:
            assert await call.read() == b"one"
        calls = [
            channel.unary_unary(path("A"))(b""),
            channel.stream_unary(path("C"))(iter([b""])),
            *(call.read() for call in streams),
        ]
        for each in calls:
            error = await failure(each)
            assert error.code() is grpc.StatusCode.ABORTED
            assert details(error)["ErrorInfo"].reason == "ETAG_MISMATCH"


async def test_trailing_metadata_survives_an_error() -> None:
    """
    What a servicer set before it failed arrives with the status.
    """

    async def handler(_request: Any, context: Context) -> bytes:
        context.set_trailing_metadata((("x-revision", "7"),))
        raise errors.NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m")

    async with wired(Do=unary(handler)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b""))
    assert trailer(error, "x-revision") == "7"
    assert details(error)["ErrorInfo"].reason == "MODEL_NOT_FOUND"


async def test_an_abort_passes_untouched() -> None:
    """
    A call that was aborted already keeps its status: AbortError is an Exception, and none of ours.
    """

    async def handler(_request: Any, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "by hand")
        return b""

    async with wired(Do=unary(handler)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "by hand")


async def test_methods_not_written_are_unimplemented() -> None:
    """
    A method that a servicer inherits from the generated base answers UNIMPLEMENTED like any other error.
    """

    def inherited(_request: Any, _context: Context) -> bytes:
        raise NotImplementedError

    async with wired(Do=unary(inherited)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert details(error)["ErrorInfo"].domain == "modelyard.dev"


async def test_a_dependency_that_is_down_makes_the_call_unavailable() -> None:
    """
    An outgoing call that finds nobody becomes UNAVAILABLE in our words, not INTERNAL and not in its own.
    """

    async def handler(request: bytes, _context: Context) -> bytes:
        # Port 1 refuses: nobody listens there.
        channel: Any = grpc.aio.insecure_channel("127.0.0.1:1")
        async with channel as nobody:
            return bytes(await nobody.unary_unary("/a.B/C")(request, timeout=5))

    async with wired(Do=unary(handler)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b"", timeout=10))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "DEPENDENCY_UNAVAILABLE"
    assert "127.0.0.1" not in (error.details() or "")
