"""
The change stream goes on whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import cast

import pytest

from services.ledger.model.changes import Heartbeat
from services.ledger.store.change_feed import ChangeFeed
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import DatabaseSettings, open_database


class Mistaken:
    """
    A log of changes that has a mistake the first time.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.again = asyncio.Event()

    async def end(self) -> None:
        """
        Never an answer.
        """
        self.asked += 1
        if self.asked > 1:
            self.again.set()
        raise ZeroDivisionError("a mistake")


async def test_a_mistake_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    """
    After a mistake the log is looked at again, and what happens every time is logged with where it happened
    once.
    """
    log = Mistaken()
    async with ChangeFeed(cast("Changelog", log), None, "changes").following(asyncio.Event()):
        await asyncio.wait_for(log.again.wait(), 10)
    assert [bool(record.exc_info) for record in caplog.records][:2] == [True, False]


async def test_a_mistake_does_not_end_the_listening() -> None:
    """
    When listening fails in a way that nobody thought of, it is tried again.
    """
    asked = 0
    again = asyncio.Event()

    async def connect() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            again.set()
        raise ZeroDivisionError("a mistake")

    async with ChangeFeed(cast("Changelog", Mistaken()), connect, "changes").following(asyncio.Event()):
        await asyncio.wait_for(again.wait(), 10)


async def test_changes_are_told_while_calls_have_all_connections(new_database: Callable[[], str]) -> None:
    """
    A stream begins, and says that it is current, when no connection is left for calls: without it the caches would send
    all reads here on top.
    """
    settings = DatabaseSettings(url=new_database(), least=1, most=1, patience=0.1)
    async with open_database(settings) as database, database.connection():
        feed = ChangeFeed(Changelog(database), None, "changes")
        async with aclosing(feed.watch(0, "", 0.1)) as told, asyncio.timeout(20):
            for _ in range(3):
                assert isinstance(await anext(told), Heartbeat)
