"""
Timeouts for a peer.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from services.cache.store.timeouts import PeerTimeout


async def test_a_silent_peer_times_out() -> None:
    """
    A block that does not end is cancelled after the timeout.
    """
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with PeerTimeout(0.1):
            await asyncio.sleep(60)
    assert time.monotonic() - began >= 0.1


async def test_a_busy_loop_does_not_count() -> None:
    """
    An answer that arrives while the loop is busy for longer than the timeout is accepted.
    """
    async with PeerTimeout(0.1):
        for _ in range(3):
            time.sleep(0.15)  # noqa: ASYNC251 - the loop has to be busy
            await asyncio.sleep(0)


async def test_a_cancellation_is_passed_on() -> None:
    """
    A cancellation inside the block is not turned into a timeout.
    """

    async def wait() -> None:
        async with PeerTimeout(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
