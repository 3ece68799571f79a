"""
Request ids, log lines, and the wrapper of all interceptors, over a real channel.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.chassis.errors import DeadlineExceeded, InvalidArgument, NotFound
from services.chassis.interceptors import (
    CallInterceptor,
    Observer,
    request_id,
    standard,
)
from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.context import Context
from services.chassis.tests.in_process import (
    bidi,
    client_stream,
    eventually,
    failure,
    path,
    server_stream,
    unary,
    wired,
)

_CALLS = "services.chassis.observability.call_recorder"


async def _echo(request: bytes, _context: Context) -> bytes:
    return request


def _records(stream: io.StringIO, logger: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [record for record in found if record["logger"] == logger]


# --- request ids ---------------------------------------------------------------------------------------------------


async def test_a_request_id_is_echoed() -> None:
    """
    The client's x-request-id comes back in the trailing metadata.
    """
    async with wired(Do=unary(_echo)) as channel:
        call = channel.unary_unary(path("Do"))(b"", metadata=(("x-request-id", "from-client-1"),))
        await call
        assert dict(list(await call.trailing_metadata()))["x-request-id"] == "from-client-1"


@pytest.mark.parametrize("sent", [(), (("x-request-id", ""),), (("x-request-id", "x" * 5000),)])
async def test_a_request_id_is_made_where_none_is_fit(sent: Any) -> None:
    """
    Without a usable id each call gets one of its own.
    """
    async with wired(Do=unary(_echo)) as channel:
        seen = set()
        for _ in range(3):
            call = channel.unary_unary(path("Do"))(b"", metadata=sent)
            await call
            seen.add(dict(list(await call.trailing_metadata()))["x-request-id"])
    assert len(seen) == 3
    assert all(0 < len(each) <= 128 for each in seen)


async def test_every_record_of_a_call_has_its_request_id(lines: io.StringIO) -> None:
    """
    Records written during a call carry its id, in worker threads too, and concurrent calls do not mix them up.
    """
    log = logging.getLogger("services.test")

    async def handler(request: bytes, _context: Context) -> bytes:
        log.info("in the loop %s", request.decode())
        await asyncio.sleep(0.01)
        await asyncio.to_thread(log.info, "in a thread %s", request.decode())
        return request

    async with wired(Do=unary(handler)) as channel:
        do = channel.unary_unary(path("Do"))
        await asyncio.gather(*(do(b"%d" % n, metadata=(("x-request-id", f"id-{n}"),)) for n in range(5)))
    records = _records(lines, "services.test")
    assert len(records) == 10
    assert all(record["request_id"] == f"id-{record['message'].split()[-1]}" for record in records)


def test_outside_of_calls_there_is_no_request_id() -> None:
    """
    Nothing is made up where no call is served.
    """
    assert request_id() is None


# --- log lines -----------------------------------------------------------------------------------------------------


async def test_the_line_of_a_call_says_what_happened(lines: io.StringIO) -> None:
    """
    At DEBUG every call leaves one line with service, method, code, duration, request id and peer, and no payload.
    """
    async with wired(Do=unary(_echo)) as channel:
        await channel.unary_unary(path("Do"))(b"hunter2", metadata=(("x-request-id", "id-1"), ("authorization", "s3")))
    (record,) = _records(lines, _CALLS)
    assert record["level"] == "DEBUG"
    assert (record["service"], record["method"], record["code"]) == ("test.Yard", "Do", "OK")
    assert record["request_id"] == "id-1"
    assert record["duration_ms"] >= 0
    assert record["peer"].startswith("ipv4:127.0.0.1:")
    assert "hunter2" not in lines.getvalue()
    assert "s3" not in lines.getvalue()


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m"), "DEBUG"),
        (InvalidArgument.of("name", "must not be empty"), "INFO"),
        (DeadlineExceeded("SEARCH_TOO_SLOW", "narrow it"), "WARNING"),
    ],
)
async def test_failures_are_logged_by_whose_they_are(lines: io.StringIO, error: Exception, level: str) -> None:
    """
    Ordinary answers stay at DEBUG, a caller's mistake is INFO, our trouble is a WARNING.
    """

    async def handler(_request: bytes, _context: Context) -> bytes:
        raise error

    async with wired(Do=unary(handler)) as channel:
        await failure(channel.unary_unary(path("Do"))(b""))
    assert [record["level"] for record in _records(lines, _CALLS)] == [level]


@pytest.mark.parametrize(
    ("told", "trusted", "client"),
    [
        (("203.0.113.9",), True, "203.0.113.9"),
        (("203.0.113.9",), False, "127.0.0.1"),
        (("203.0.113.9", "203.0.113.10"), True, "127.0.0.1"),
        (("x" * 65,), True, "127.0.0.1"),
        ((), True, "127.0.0.1"),
    ],
)
async def test_the_client_is_who_the_gateway_says(
    lines: io.StringIO, told: tuple[str, ...], trusted: bool, client: str
) -> None:
    """
    A gateway is believed about the address of a client; anybody else has only their own.
    """
    metadata = tuple(("x-modelyard-client", each) for each in told)
    async with wired(Do=unary(_echo), gateways="127.0.0.0/8" if trusted else "10.0.0.0/8") as channel:
        await channel.unary_unary(path("Do"))(b"", metadata=metadata)
    (record,) = _records(lines, _CALLS)
    assert record["client"] == client
    assert record["peer"].startswith("ipv4:127.0.0.1:")


async def test_slow_calls_are_warned_of_and_streams_are_not(lines: io.StringIO) -> None:
    """
    A unary call over the bound is a WARNING although it succeeds; streams are long by nature.
    """

    async def slow(request: bytes, _context: Context) -> bytes:
        await asyncio.sleep(0.02)
        return request

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield await slow(request, context)

    async with wired(Slow=unary(slow), Stream=server_stream(stream), slow=0.01) as channel:
        await channel.unary_unary(path("Slow"))(b"")
        assert [each async for each in channel.unary_stream(path("Stream"))(b"x")] == [b"x"]
    assert [(r["method"], r["level"], r["code"]) for r in _records(lines, _CALLS)] == [
        ("Slow", "WARNING", "OK"),
        ("Stream", "DEBUG", "OK"),
    ]


# --- the wrapper ---------------------------------------------------------------------------------------------------


class _Diary(CallInterceptor):
    """
    Writes down what it sees.
    """

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name = name
        self.diary = diary

    def observe(self, _method: Method) -> Observer:
        return self

    def begin(self, _context: Context) -> None:
        self.diary.append(f"{self.name} begins")

    def end(self, _context: Context, _state: Any) -> None:
        self.diary.append(f"{self.name} ends")

    async def fail(self, _context: Context, _state: Any, error: BaseException) -> None:
        self.diary.append(f"{self.name} fails with {type(error).__name__}")


@pytest.mark.parametrize("kind", list(Kind))
async def test_one_interceptor_serves_all_kinds(kind: Kind) -> None:
    """
    Interceptors nest in their order round calls of each kind, and messages pass through unchanged.
    """
    diary: list[str] = []

    async def one(request: Any, _context: Context) -> bytes:
        diary.append("handler")
        return request if isinstance(request, bytes) else b"".join([each async for each in request])

    async def many(request: Any, context: Context) -> AsyncIterator[bytes]:
        yield await one(request, context)
        yield b"!"

    handlers = {
        Kind.UNARY_UNARY: unary(one),
        Kind.UNARY_STREAM: server_stream(many),
        Kind.STREAM_UNARY: client_stream(one),
        Kind.STREAM_STREAM: bidi(many),
    }
    async with wired(Do=handlers[kind], interceptors=(_Diary("outer", diary), _Diary("inner", diary))) as channel:
        if kind is Kind.UNARY_UNARY:
            assert await channel.unary_unary(path("Do"))(b"ab") == b"ab"
        elif kind is Kind.STREAM_UNARY:
            assert await channel.stream_unary(path("Do"))(iter([b"a", b"b"])) == b"ab"
        elif kind is Kind.UNARY_STREAM:
            assert [each async for each in channel.unary_stream(path("Do"))(b"ab")] == [b"ab", b"!"]
        else:
            assert [each async for each in channel.stream_stream(path("Do"))(iter([b"a", b"b"]))] == [b"ab", b"!"]
    assert diary == ["outer begins", "inner begins", "handler", "inner ends", "outer ends"]


async def test_a_clients_cancel_reaches_the_handler_of_a_stream() -> None:
    """
    When the client disconnects, the handler's cleanup runs at once and every interceptor hears of the cancellation.
    """
    diary: list[str] = []
    cleaned = asyncio.Event()

    async def handler(_request: bytes, _context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            diary.append("cleaned")
            cleaned.set()

    async with wired(Do=server_stream(handler), interceptors=(*standard(), _Diary("it", diary))) as channel:
        call = channel.unary_stream(path("Do"))(b"")
        assert await call.read() == b"x"
        call.cancel()
        async with asyncio.timeout(5):
            await cleaned.wait()
    assert diary == ["it begins", "cleaned", "it fails with CancelledError"]


async def test_a_clients_cancel_reaches_the_handler_of_a_unary_call(lines: io.StringIO) -> None:
    """
    A cancelled call is not turned into an error: its line says CANCELLED, at DEBUG.
    """
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def handler(_request: bytes, _context: Context) -> bytes:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return b""

    async with wired(Do=unary(handler)) as channel:
        call = channel.unary_unary(path("Do"))(b"")
        async with asyncio.timeout(5):
            await started.wait()
            call.cancel()
            await cleaned.wait()
            await eventually(lambda: _records(lines, _CALLS))
    assert [(r["code"], r["level"]) for r in _records(lines, _CALLS)] == [("CANCELLED", "DEBUG")]
    assert not _records(lines, "services.chassis.interceptors.errors")
