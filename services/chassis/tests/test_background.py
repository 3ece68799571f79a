"""
Work that goes on beside the calls.
"""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.background import beside, every
from services.chassis.errors import Unavailable


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


async def test_what_is_done_now_and_then_survives_errors(caplog: pytest.LogCaptureFixture) -> None:
    """
    Neither a dependency that is away nor a mistake keeps periodic work from its next turn; only the mistake is logged
    as an error, with where it happened.
    """
    errors = [Unavailable("AWAY", "the database is away"), ZeroDivisionError("a mistake")]
    went_on = asyncio.Event()

    async def work() -> None:
        if errors:
            raise errors.pop(0)
        went_on.set()

    async with beside(every(0.001, work, "sweep")):
        await asyncio.wait_for(went_on.wait(), 10)
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", False),
        ("ERROR", True),
    ]
    assert "could not sweep: the database is away" in caplog.text
