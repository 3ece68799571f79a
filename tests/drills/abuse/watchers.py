"""
Many idle watchers: no attack, but a load that slows down other clients if a host handles it badly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from services.chassis.tests.behaviour.wire import Wire, message

_WATCH = "/grpc.health.v1.Health/Watch"
# The gateway's limit per connection is slightly higher.
_PER_CONNECTION = 500
_AT_ONCE = 50


async def watch(port: int, count: int, opened: Callable[[int], None], enough: Callable[[], bool]) -> None:
    """
    Open *count* health watches, and hold them until *enough* returns true.

    Args:
        port: of the gateway.
        opened: called when all have been requested, with the number of watches that are open.
        enough: polled.
    """
    async with AsyncExitStack() as stack:
        replies = []
        for first in range(0, count, _PER_CONNECTION):
            wire = await stack.enter_async_context(Wire.open(port))
            streams = range(min(_PER_CONNECTION, count - first))
            for number in streams:
                stream = wire.begin(_WATCH)
                wire.data(stream, message(b""), end=True)
                replies.append(wire.expect(stream))
                if number % _AT_ONCE == 0:
                    await wire.ping()
            await asyncio.wait_for(asyncio.gather(*(reply.began.wait() for reply in replies[first:])), 60)
        opened(sum(not reply.ended.is_set() for reply in replies))
        while not enough():
            await asyncio.sleep(0.05)
