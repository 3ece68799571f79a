"""
Clients that give up.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from services.chassis.tests.behaviour.client import (
    Stub,
    answers,
    ask,
    channel_to,
    ended,
    eventually,
    fate,
    name,
    opened,
    path,
)
from services.chassis.tests.behaviour.probe_process import MIB, Probe
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_SLOW = pb.Ask(answers=1, pause_ms=60_000)


async def _begun(probe: Stub, call: str, calls: int = 1) -> None:
    async def begun() -> bool:
        return (await fate(probe, call)).received == calls

    await eventually(begun)


async def test_cancel(probe: Stub, kind: str) -> None:
    """
    A client's cancel cancels the handler, and only that one.
    """
    call, other = name(), opened(probe, "Both", timeout=30)
    await other.write(pb.Ask(text="before"))
    slow = ask(probe, kind, _SLOW, call=call)
    reading = asyncio.ensure_future(answers(slow))
    await _begun(probe, call)
    slow.cancel()
    assert (await ended(probe, call)).cancelled == 1
    await asyncio.wait([reading])
    await other.write(pb.Ask(text="after"))
    await other.done_writing()
    assert [answer.text async for answer in other] == ["before", "after"]


async def test_cancel_between_messages(probe: Stub) -> None:
    """
    A handler that waits for the client's next message is cancelled as well.
    """
    for kind in ("Up", "Both"):
        call = name()
        open_call = opened(probe, kind, call=call)
        await open_call.write(pb.Ask())
        await _begun(probe, call)
        open_call.cancel()
        assert (await ended(probe, call)).cancelled == 1


async def test_cancel_without_reading(probe: Stub) -> None:
    """
    A handler that waits for a client to read is cancelled as well.
    """
    call = name()
    down = ask(probe, "Down", pb.Ask(answers=1000, answer_bytes=MIB), call=call)
    await down.read()
    last = -1

    async def stuck() -> bool:
        nonlocal last
        before, last = last, (await fate(probe, call)).sent
        await asyncio.sleep(0.1)
        return before == last

    await eventually(stuck)
    down.cancel()
    told = await ended(probe, call)
    assert (told.cancelled, told.sent < 1000) == (1, True)


async def test_reset(probe: Stub, wire: Wire, kind: str) -> None:
    """
    A reset stream cancels its handler; the other calls on its connection go on.
    """
    call, one = name(), message(pb.Ask(text="other").SerializeToString())
    other, slow = wire.begin(path("Both")), wire.begin(path(kind), {"x-call": call})
    wire.data(other, one)
    wire.data(slow, message(_SLOW.SerializeToString()), end=kind in {"Unary", "Down"})
    await _begun(probe, call)
    wire.reset(slow)
    assert (await ended(probe, call)).cancelled == 1
    wire.data(other, one, end=True)
    reply = await wire.reply(other)
    assert (reply.status, reply.body.count(b"other")) == (0, 2)


async def test_lost_connection(host: Probe, probe: Stub, kind: str) -> None:
    """
    A connection that breaks cancels all handlers that serve it.
    """
    call = name()
    async with Wire.open(host.port) as wire:
        for _ in range(3):
            stream = wire.begin(path(kind), {"x-call": call})
            wire.data(stream, message(_SLOW.SerializeToString()), end=kind in {"Unary", "Down"})
        await _begun(probe, call, 3)
    assert (await ended(probe, call, 3)).cancelled == 3


async def test_too_late(probe: Stub, kind: str) -> None:
    """
    A cancel after the end changes nothing.
    """
    call = name()
    quick = ask(probe, kind, call=call)
    await answers(quick)
    assert await quick.code() is grpc.StatusCode.OK
    quick.cancel()
    assert (await ended(probe, call)).finished == 1


async def test_many(host: Probe, probe: Stub) -> None:
    """
    However many calls are cancelled, at whatever moment, each of their handlers ends, and calls are served as before.
    """
    call = name()
    async with channel_to(host.target) as channel:
        other = Stub(channel)
        request = pb.Ask(answers=1000, answer_bytes=1000, pause_ms=1)
        calls: list[Any] = [ask(other, kind, request, call=call) for kind in ("Unary", "Down", "Up", "Both") * 100]
        reading = [asyncio.ensure_future(answers(each)) for each in calls]
        for number, each in enumerate(calls):
            if number % 20 == 0:
                await asyncio.sleep(0.005)
            each.cancel()
        await asyncio.wait(reading)

    async def all_ended() -> bool:
        told = await fate(probe, call)
        return told.started == told.done == told.finished + told.cancelled

    await eventually(all_ended)
    assert len(await answers(ask(probe, "Down", pb.Ask(answers=10), timeout=10))) == 10
