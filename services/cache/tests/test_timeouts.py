"""
Time-outs for the other side.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from services.cache.store.timeouts import PeerTimeout


async def test_a_silent_side_is_given_up() -> None:
    """
    What does not end is ended, when its time is up.
    """
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with PeerTimeout(0.1):
            await asyncio.sleep(60)
    assert time.monotonic() - began >= 0.1


async def test_our_own_work_is_no_silence() -> None:
    """
    What comes while the loop is busy for longer than the time, in a few turns, is taken.
    """
    async with PeerTimeout(0.1):
        for _ in range(3):
            time.sleep(0.15)  # noqa: ASYNC251 - the loop has to be busy
            await asyncio.sleep(0)


async def test_a_cancellation_is_passed_on() -> None:
    """
    Who is cancelled within is cancelled, and not told of a time-out.
    """

    async def wait() -> None:
        async with PeerTimeout(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
