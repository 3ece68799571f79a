"""
Back-pressure: whoever reads slowly slows the writer down, instead of filling the server's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.chassis.tests.behaviour.client import EOF, Stub, answers, ask, channel_to, ended, fate, name
from services.chassis.tests.behaviour.probe_process import MIB, Probe, resident
from services.chassis.tests.proto import probe_pb2 as pb

_SENT = 256 * MIB
_MOST = 64 * MIB
# How far ahead a writer may be: mostly what lies in the buffers of the client, which is not what is tested here.
_AHEAD = 128 * MIB


class Watch:
    """
    How much more memory a probe and all its processes hold at any time than they did in the beginning.
    """

    def __init__(self, probe: Probe) -> None:
        # Found once: finding them reads the table of all processes of the machine.
        self._family = probe.family()
        self._before = self._memory()
        self.growth = 0

    def _memory(self) -> int:
        return sum(map(resident, self._family))

    async def look(self) -> None:
        """
        Look again and again.
        """
        while True:
            self.growth = max(self.growth, self._memory() - self._before)
            await asyncio.sleep(0.05)


@pytest.fixture
async def calm(host: Probe) -> AsyncIterator[Stub]:
    """
    A worker that has served little else, so that memory which earlier tests released does not hide growth.
    """
    async with channel_to(f"127.0.0.1:{host.ports[1]}") as channel:
        await answers(ask(Stub(channel), "Down", pb.Ask(answers=2, answer_bytes=MIB), timeout=10))
        yield Stub(channel)


@asynccontextmanager
async def watched(probe: Probe) -> AsyncIterator[Watch]:
    """
    Watch *probe* for as long as the block lasts.
    """
    watch = Watch(probe)
    looking = asyncio.create_task(watch.look())
    try:
        yield watch
    finally:
        looking.cancel()


async def test_slow_reader(host: Probe, calm: Stub) -> None:
    """
    A client that reads a stream of 256 MiB slowly keeps the handler from getting far ahead of it, and the server from
    holding 64 MiB more than before, at whatever speed it goes on.
    """
    call, count = name(), _SENT // MIB
    async with watched(host) as watch:
        down = ask(calm, "Down", pb.Ask(answers=count, answer_bytes=MIB), call=call)
        for _ in range(10):
            await down.read()
            await asyncio.sleep(0.1)
        assert (await fate(calm, call)).sent * MIB < _AHEAD
        for _ in range(10, count):
            await down.read()
        assert await down.read() is EOF
        assert (await ended(calm, call)).finished == 1
    assert watch.growth < _MOST


async def test_reader_that_stops(host: Probe, calm: Stub) -> None:
    """
    The same with smaller messages, for a client that stops reading and gives up.
    """
    call, size = name(), 16_000
    async with watched(host) as watch:
        down = ask(calm, "Down", pb.Ask(answers=1024 * MIB // size, answer_bytes=size), call=call)
        await down.read()
        await asyncio.sleep(1)
        assert 0 < (await fate(calm, call)).sent * size < _AHEAD
        down.cancel()
        assert (await ended(calm, call)).cancelled == 1
    assert watch.growth < _MOST


async def test_slow_handler(host: Probe, calm: Stub) -> None:
    """
    A handler that reads slowly keeps a fast client waiting, and the server from holding 64 MiB more than before.
    """
    call = name()
    written = 0

    async def flood() -> AsyncIterator[pb.Ask]:
        nonlocal written
        while True:
            yield pb.Ask(payload=bytes(MIB), pause_ms=100)
            written += MIB

    async with watched(host) as watch:
        up = calm.Up(flood(), metadata=(("x-call", call),))
        async with asyncio.timeout(30):
            while not written:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert written < _AHEAD
        up.cancel()
        assert (await ended(calm, call)).cancelled == 1
    assert watch.growth < _MOST
