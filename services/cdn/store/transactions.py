"""
Transactions that are not a client's write, or that take longer than the database expects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

Run = Callable[..., Awaitable[list[Row]]]

KEEPALIVE = Statement("transaction.still_here", "SELECT 1")

#: Less than the time after which the database ends a transaction in which nothing happens
#: (`DatabaseSettings.idle_timeout`), by more than a pause of the event loop or of the database.
_ASK_EVERY_SECONDS = 1.0


@asynccontextmanager
async def background_transaction(database: Database) -> AsyncIterator[Run]:
    """
    A transaction on the primary, of what the service does by itself: no client asked for it, so it takes no revision.
    Gives what runs a statement in it, with its arguments, and returns the rows.
    """
    async with database.connection() as connection, connection.transaction():

        async def run(statement: Statement, *args: Any) -> list[Row]:
            rows: list[Row] = await database.primary.on(connection, asyncpg.Connection.fetch, statement, args)
            return rows

        yield run


@asynccontextmanager
async def keep_alive(ask: Callable[[], Awaitable[Any]], every: float = _ASK_EVERY_SECONDS) -> AsyncIterator[None]:
    """
    Keep the database from ending a transaction while the block waits for something else, such as the object store.

    Args:
        ask: runs `KEEPALIVE` in it.
        every: seconds between two times.
    """
    done = asyncio.Event()

    async def asking() -> None:
        while True:
            try:
                # Not cancelled at the end but told: a statement that is cancelled in the middle ends the transaction.
                await asyncio.wait_for(done.wait(), every)
            except TimeoutError:
                await ask()
            else:
                return

    task = asyncio.create_task(asking())
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(task, return_exceptions=True)
    # What the database said to that is the transaction's trouble, and no answer may follow it.
    task.result()
