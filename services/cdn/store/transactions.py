"""
Transactions of background jobs, and keepalives of long transactions.
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
    A transaction of a background job on the primary, without a revision. Yields a function that runs a statement in it
    and returns the rows.
    """
    async with database.connection() as connection, connection.transaction():

        async def run(statement: Statement, *args: Any) -> list[Row]:
            rows: list[Row] = await database.primary.on(connection, asyncpg.Connection.fetch, statement, args)
            return rows

        yield run


@asynccontextmanager
async def keep_alive(ask: Callable[[], Awaitable[Any]], every: float = _ASK_EVERY_SECONDS) -> AsyncIterator[None]:
    """
    Prevent the idle-in-transaction timeout while the block waits for something else, such as the object store.

    Args:
        ask: runs `KEEPALIVE` in the transaction.
        every: interval in seconds.
    """
    done = asyncio.Event()

    async def asking() -> None:
        while True:
            try:
                # Stopped by an event, not cancelled: cancelling a running statement would abort the transaction.
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
    # An error of the keepalive is an error of the transaction, and must not be swallowed.
    task.result()
