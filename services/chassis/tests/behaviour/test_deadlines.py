"""
Deadlines: known to handlers, kept by the server.
"""

from __future__ import annotations

import asyncio

import grpc

from services.chassis.tests.behaviour.client import Stub, answers, ask, ended, failure, name, path
from services.chassis.tests.behaviour.differences import BAD_TIMEOUT
from services.chassis.tests.behaviour.probe_process import Probe
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_SLOW = pb.Ask(answers=1, pause_ms=60_000)
_DEADLINE_EXCEEDED = 4


async def test_known(probe: Stub, kind: str) -> None:
    """
    The handler knows how much time is left.
    """
    (answer,) = await answers(ask(probe, kind, timeout=100))
    assert 50 < answer.seconds_left <= 102  # clients round up what they send


async def test_none(probe: Stub, kind: str) -> None:
    """
    Without a deadline the handler knows that there is none.
    """
    (answer,) = await answers(ask(probe, kind))
    assert not answer.HasField("seconds_left")


async def test_expired(probe: Stub, kind: str) -> None:
    """
    A call that takes longer than it may is DEADLINE_EXCEEDED, and its handler is cancelled.
    """
    call = name()
    error = await failure(ask(probe, kind, _SLOW, call=call, timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await ended(probe, call)).cancelled == 1


async def test_kept_by_server(probe: Stub, wire: Wire, kind: str) -> None:
    """
    The server ends a call at its deadline by itself, whether or not the client does.
    """
    call = name()
    stream = wire.begin(path(kind), {"grpc-timeout": "100m", "x-call": call})
    wire.data(stream, message(_SLOW.SerializeToString()), end=kind in {"Unary", "Down"})
    assert (await wire.reply(stream)).status == _DEADLINE_EXCEEDED
    assert (await ended(probe, call)).cancelled == 1


async def test_silent_client(probe: Stub, wire: Wire) -> None:
    """
    A client that begins a request and never sends the rest of it is DEADLINE_EXCEEDED when its time is over.
    """
    stream = wire.begin(path("Unary"), {"grpc-timeout": "100m"})
    wire.data(stream, message(b"half", length=100))
    assert (await wire.reply(stream)).status == _DEADLINE_EXCEEDED
    await ask(probe, "Unary", timeout=10)


async def test_over_on_arrival(wire: Wire, kind: str) -> None:
    """
    A call whose time is over when it arrives is DEADLINE_EXCEEDED.
    """
    reply = await wire.call(path(kind), message(_SLOW.SerializeToString()), {"grpc-timeout": "0n"})
    assert reply.status == _DEADLINE_EXCEEDED


async def test_units(wire: Wire) -> None:
    """
    Every unit of the protocol counts as what it is.
    """
    for timeout, seconds in (("2H", 7200), ("3M", 180), ("50S", 50), ("50000m", 50), ("50000000u", 50)):
        reply = await wire.call(path("Unary"), message(b""), {"grpc-timeout": timeout})
        left = pb.Answer.FromString(bytes(reply.body[5:])).seconds_left
        assert seconds - 20 < left < seconds + 0.1


async def test_malformed(host: Probe, wire: Wire) -> None:
    """
    A deadline that cannot be read is an error: a call without the deadline that was meant may run for ever.
    """
    malformed = ("abc", "-1S", "1", "S", "1.5S", "")
    calls = [wire.call(path("Unary"), message(b""), {"grpc-timeout": timeout}) for timeout in malformed]
    assert {reply.status for reply in await asyncio.gather(*calls)} == {BAD_TIMEOUT.on(host.host)}
