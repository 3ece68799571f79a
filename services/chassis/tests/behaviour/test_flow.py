"""
Back-pressure: whoever reads slowly slows the writer down, instead of filling the server's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.chassis.tests.behaviour.asking import EOF, Stub, answers, ask, channel_to, ended, fate, name
from services.chassis.tests.behaviour.running import MIB, Probe, running
from services.chassis.tests.proto import probe_pb2 as pb

_GIB = 1024 * MIB
_MOST = 64 * MIB
# How far ahead a writer may be: mostly what lies in the buffers of the client, which is not what is tested here.
_AHEAD = _GIB // 4


class Watch:
    """
    How much more memory a probe and all its processes hold at any time than they did in the beginning.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._before = probe.memory()
        self.growth = 0

    async def look(self) -> None:
        """
        Look again and again.
        """
        while True:
            self.growth = max(self.growth, self._probe.memory() - self._before)
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
async def fresh(host_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Probe]:
    """
    A probe of their own, so that no memory that other tests have let go of can hide what these take.
    """
    async with running(host_name, tmp_path_factory.mktemp("flow")) as probe, channel_to(probe.target) as channel:
        await answers(ask(Stub(channel), "Down", pb.Ask(answers=2, answer_bytes=MIB), timeout=10))
        yield probe


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


async def test_slow_reader(fresh: Probe) -> None:
    """
    A client that reads a stream of 1 GiB slowly keeps the handler from getting far ahead of it, and the server from
    holding 64 MiB more than before, at whatever speed it goes on.
    """
    call, count = name(), _GIB // MIB
    async with channel_to(fresh.target) as channel, watched(fresh) as watch:
        probe = Stub(channel)
        down = ask(probe, "Down", pb.Ask(answers=count, answer_bytes=MIB), call=call)
        for _ in range(10):
            await down.read()
            await asyncio.sleep(0.08)
        assert (await fate(probe, call)).sent * MIB < _AHEAD
        for _ in range(10, count):
            await down.read()
        assert await down.read() is EOF
        assert watch.growth < _MOST
        assert (await ended(probe, call)).finished == 1


async def test_reader_that_stops(fresh: Probe) -> None:
    """
    The same with small messages, for a client that stops reading and gives up.
    """
    call, size = name(), 1000
    async with channel_to(fresh.target) as channel, watched(fresh) as watch:
        probe = Stub(channel)
        down = ask(probe, "Down", pb.Ask(answers=_GIB // size, answer_bytes=size), call=call)
        await down.read()
        await asyncio.sleep(1)
        assert 0 < (await fate(probe, call)).sent * size < _AHEAD
        assert watch.growth < _MOST
        down.cancel()
        assert (await ended(probe, call)).cancelled == 1


async def test_slow_handler(fresh: Probe) -> None:
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

    async with channel_to(fresh.target) as channel, watched(fresh) as watch:
        up = Stub(channel).Up(flood(), metadata=(("x-call", call),))
        await asyncio.sleep(1)
        assert watch.growth < _MOST
        assert 0 < written < _AHEAD
        up.cancel()
        assert (await ended(Stub(channel), call)).cancelled == 1
