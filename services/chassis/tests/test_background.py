"""
Work that goes on beside the calls.
"""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.background import beside


async def test_it_ends_with_the_block() -> None:
    """
    What goes on is cancelled when the block ends, and has ended when that is left.
    """
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("ended")

    async with beside(work(), work()):
        await asyncio.sleep(0)
    assert seen == ["ended", "ended"]


async def test_a_mistake_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """
    A mistake that ends work in the background is an error in the log while the block goes on.
    """

    async def mistaken() -> None:
        raise ZeroDivisionError("a mistake")

    async with beside(mistaken()):
        await asyncio.sleep(0.01)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "a mistake" in caplog.text
