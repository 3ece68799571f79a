"""
What clients are told when something goes wrong.
"""

from __future__ import annotations

import grpc
import pytest

from services.chassis.tests.behaviour.client import Stub, ask, ended, failure, name
from services.chassis.tests.behaviour.probe_process import Probe
from services.chassis.tests.in_process import details
from services.chassis.tests.probe import SECRET
from services.chassis.tests.proto import probe_pb2 as pb


async def test_rich_status(probe: Stub, kind: str) -> None:
    """
    An error carries its reason and its facts in details that programs can read.
    """
    error = await failure(ask(probe, kind, pb.Ask(trouble=pb.TROUBLE_NOT_FOUND, text="probes/1"), timeout=10))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "probes/1 does not exist")
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain, info.metadata["resource"]) == ("PROBE_NOT_FOUND", "modelyard.dev", "probes/1")


async def test_field_violations(probe: Stub, kind: str) -> None:
    """
    A bad request is told which of its fields are wrong.
    """
    error = await failure(ask(probe, kind, pb.Ask(trouble=pb.TROUBLE_INVALID), timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in details(error)["BadRequest"].field_violations] == ["payload", "text"]


async def test_retry_delay(probe: Stub, kind: str) -> None:
    """
    Who may try again is told when.
    """
    error = await failure(ask(probe, kind, pb.Ask(trouble=pb.TROUBLE_UNAVAILABLE), timeout=10))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["RetryInfo"].retry_delay.ToMilliseconds() == 1500


async def test_any_text(probe: Stub) -> None:
    """
    Messages hold any character.
    """
    text = "Größe 100 %\n\t“%41” 港 🚢 \x00 \x7f"
    error = await failure(ask(probe, "Unary", pb.Ask(trouble=pb.TROUBLE_NOT_FOUND, text=text), timeout=10))
    assert error.details() == f"{text} does not exist"


async def test_long_text(probe: Stub) -> None:
    """
    A message that is too long for trailers is cut, and the status arrives all the same.
    """
    request = pb.Ask(trouble=pb.TROUBLE_NOT_FOUND, text="ü" * 100_000)
    error = await failure(ask(probe, "Unary", request, timeout=10))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details(error)["ErrorInfo"].reason == "PROBE_NOT_FOUND"


async def test_unexpected(host: Probe, probe: Stub, kind: str) -> None:
    """
    An exception that nobody foresaw is INTERNAL; its text stays in the log, under the request id that the client gets.
    """
    call = name()
    request = pb.Ask(trouble=pb.TROUBLE_BUG)
    error = await failure(ask(probe, kind, request, call=call, metadata=[("x-request-id", call)], timeout=10))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert call in (error.details() or "")
    assert SECRET not in f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
    assert (await ended(probe, call)).failed == 1
    assert [line for line in host.log.read_text().splitlines() if call in line and SECRET in line]


async def test_after_answers(probe: Stub) -> None:
    """
    An error in the middle of a stream comes after the answers that were given before it.
    """
    call = ask(probe, "Down", pb.Ask(answers=100, payload=b"x", trouble=pb.TROUBLE_NOT_FOUND, text="a/b"), timeout=10)
    found = [await call.read() for _ in range(100)]
    assert [answer.index for answer in found] == list(range(100))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
