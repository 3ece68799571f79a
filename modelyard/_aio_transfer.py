"""
File transfers of the asyncio client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from modelyard.transfer import STREAMS, Attempts, Download, Pause, Plan, PollDelays, RangeDownload, StreamDownload

T = TypeVar("T")


async def carry_out(yard: Any, plan: Plan[T]) -> T:
    """
    Execute *plan* with the stubs of *yard*, and return its result. The plan runs in a thread, since it reads files.
    """
    step = plan.send
    given: Any = None
    while True:
        done, wanted = await asyncio.to_thread(_next, step, given)
        if done:
            result: T = wanted
            return result
        step, given = plan.send, None
        if isinstance(wanted, Pause):
            await asyncio.sleep(wanted.seconds)
            continue
        request = _threaded(wanted.request()) if callable(wanted.request) else wanted.request
        try:
            given = await getattr(getattr(yard, wanted.stub), wanted.method)(request)
        except grpc.RpcError as error:
            step, given = plan.throw, error


def _next(step: Callable[[Any], Any], given: Any) -> tuple[bool, Any]:
    # A future cannot carry StopIteration.
    try:
        return False, step(given)
    except StopIteration as done:
        return True, done.value


async def _threaded(messages: Iterator[Message]) -> AsyncIterator[Message]:
    # A slow disk must not block the event loop.
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


async def _begin(incoming: Download) -> None:
    pauses = PollDelays()
    while not await asyncio.to_thread(incoming.begin):  # noqa: ASYNC110 - another process has no event for us
        await asyncio.sleep(pauses.next())


async def receive(yard: Any, incoming: StreamDownload) -> None:
    """
    Download the missing bytes of a small file.
    """
    await _begin(incoming)
    attempts = Attempts()
    while incoming.missing:
        try:
            async for message in yard.assets.Download(incoming.request()):
                await asyncio.to_thread(incoming.take, message.chunk)
            incoming.ended()
        except grpc.RpcError as error:
            await asyncio.sleep(attempts.delay(error, incoming.received))


async def receive_ranges(yard: Any, incoming: RangeDownload) -> None:
    """
    Download the missing bytes of a large file in several streams; the first failure ends all.
    """
    await _begin(incoming)
    tasks = [asyncio.create_task(_receive_pieces(yard, incoming)) for _ in range(STREAMS)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive_pieces(yard: Any, incoming: RangeDownload) -> None:
    while (piece := incoming.next()) is not None:
        attempts = Attempts()
        while piece.missing:
            try:
                async for message in yard.assets.Download(incoming.request(piece)):
                    await asyncio.to_thread(incoming.take, piece, message.chunk)
                incoming.ended(piece)
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.delay(error, piece.done))
