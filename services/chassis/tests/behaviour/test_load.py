"""
Many calls at once.
"""

from __future__ import annotations

import asyncio

from services.chassis.tests.behaviour.client import Stub, ended, eventually, fate, name, opened
from services.chassis.tests.proto import probe_pb2 as pb

_MANY = 1000


async def test_thousand_calls(probe: Stub) -> None:
    """
    A thousand unary calls on one connection are all served, each with its own answer.
    """
    call = name()
    calls = [probe.Unary(pb.Ask(text=str(n), pause_ms=200), metadata=(("x-call", call),)) for n in range(_MANY)]
    async with asyncio.timeout(60):
        found = await asyncio.gather(*calls)
    assert [answer.text for answer in found] == [str(n) for n in range(_MANY)]
    assert (await ended(probe, call, _MANY)).finished == _MANY


async def test_thousand_open_streams(probe: Stub) -> None:
    """
    A thousand streams are open at the same time on one connection, and each of them is served whenever it speaks.
    """
    call = name()
    streams = [opened(probe, "Both", call=call, timeout=60) for _ in range(_MANY)]

    async def all_begun() -> bool:
        return (await fate(probe, call)).started == _MANY

    await eventually(all_begun)
    for number, stream in enumerate(streams):
        await stream.write(pb.Ask(text=str(number)))
    for number, stream in enumerate(streams):
        answer = await stream.read()
        assert answer.text == str(number)
    told = await fate(probe, call)
    assert (told.started, told.finished, told.sent) == (_MANY, 0, _MANY)
    for stream in streams:
        await stream.done_writing()
    assert (await ended(probe, call, _MANY)).finished == _MANY
