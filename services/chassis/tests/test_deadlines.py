"""
Every call ends, and what is called on its behalf ends before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc

from services.chassis.interceptors import outgoing_timeout, remaining, standard
from services.chassis.interceptors.deadline import Cutter
from services.chassis.serving.context import Context
from services.chassis.tests.in_process import client_stream, eventually, failure, path, server_stream, unary, wired


async def _echo(request: bytes, _context: Context) -> bytes:
    return request


async def test_a_call_without_a_deadline_gets_one() -> None:
    """
    A unary call that would never end is cut: DEADLINE_EXCEEDED, and the handler is cancelled.
    """
    cancelled = asyncio.Event()

    async def handler(_request: bytes, _context: Context) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async with wired(Do=unary(handler), interceptors=standard(default_deadline=0.1)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b""))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled.is_set()


async def test_calls_in_time_are_not_cut() -> None:
    """
    The clock of a call stops when it ends: later work of the process is not cancelled by it.
    """
    async with wired(Do=unary(_echo), interceptors=standard(default_deadline=0.1)) as channel:
        do = channel.unary_unary(path("Do"))
        for n in range(20):
            assert await do(b"%d" % n) == b"%d" % n
            await asyncio.sleep(0.01)


async def test_streams_without_a_deadline_go_on() -> None:
    """
    Streams of either direction outlive the cap of unary calls.
    """

    async def down(_request: bytes, _context: Context) -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.05)
            yield b"%r" % remaining()

    async def up(requests: AsyncIterator[bytes], _context: Context) -> bytes:
        return b"".join([each async for each in requests])

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.05)
            yield b"x"

    interceptors = standard(default_deadline=0.1)
    async with wired(Down=server_stream(down), Up=client_stream(up), interceptors=interceptors) as channel:
        assert [each async for each in channel.unary_stream(path("Down"))(b"")] == [b"None"] * 3
        assert await channel.stream_unary(path("Up"))(slowly()) == b"xxx"


async def test_outgoing_calls_end_before_the_call_they_serve() -> None:
    """
    What is left of the client's deadline, or of the default one, is known below, and outgoing timeouts are shorter.
    """

    async def handler(_request: bytes, _context: Context) -> bytes:
        left = remaining()
        assert left is not None
        return json.dumps([left, outgoing_timeout()]).encode()

    async with wired(Do=unary(handler), interceptors=standard(default_deadline=60)) as channel:
        do = channel.unary_unary(path("Do"))
        given, default = json.loads(await do(b"", timeout=5)), json.loads(await do(b""))
    assert given[1] < given[0] < 6  # grpc rounds a timeout up on the wire
    assert default[1] < default[0] <= 60


async def test_nothing_is_sent_out_when_no_time_is_left() -> None:
    """
    A call on behalf of an expired call raises DeadlineExceeded instead of waiting.
    """

    async def handler(_request: bytes, _context: Context) -> bytes:
        await eventually(lambda: not remaining())
        outgoing_timeout()
        return b""

    async with wired(Do=unary(handler), interceptors=standard(default_deadline=0.2)) as channel:
        error = await failure(channel.unary_unary(path("Do"))(b""))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_outside_of_calls_timeouts_are_the_callers() -> None:
    """
    Background work has no deadline to derive one from, and uses what it says itself.
    """
    assert remaining() is None
    assert outgoing_timeout(otherwise=3.0) == 3.0


async def test_one_timer_serves_the_calls_of_a_moment() -> None:
    """
    Calls that start together share a slot, later ones get another, and each is cut only after its full time.
    """
    cutter = Cutter(0.16)
    task = asyncio.current_task()
    assert task is not None
    first, second, third = (cutter.enter(task, now) for now in (100.0, 100.009, 100.011))
    assert first is second
    assert third is not first
    for slot in (first, third):
        slot.tasks.discard(task)
    await asyncio.sleep(0.2)
    assert first.expired
    assert task.cancelling() == 0
