"""
The registry's database: connections, transactions, and its errors as ours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from services.registry.store.pool import Connection, Pool, Taken
from services.registry.store.trouble import translated

T = TypeVar("T")
Row = asyncpg.Record

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """
    How to reach the database and how much of it to use.

    Args:
        url: postgresql://user@host:port/database, without a password.
        password: None where the server trusts the user.
        least, most: connections in the pool.
        patience: seconds that a call waits for a connection.
        connect_timeout: seconds that opening a connection may take.
        startup: seconds that the database may take to answer when this process starts.
        statement_timeout: seconds that any statement may take.
        search_timeout: seconds that a search may take.
    """

    url: str
    password: str | None = None
    least: int = 2
    most: int = 20
    patience: float = 2.0
    connect_timeout: float = 3.0
    startup: float = 30.0
    statement_timeout: float = 20.0
    search_timeout: float = 2.0


class Database:
    """
    Statements on pooled connections. Driver errors leave it as `services.chassis.errors`.

    Args:
        pool: the connections.
        search_timeout: seconds that a search may take.
        searches: how many may run at once: slow ones must not take every connection from the point reads.
    """

    def __init__(self, pool: Pool, search_timeout: float, searches: int) -> None:
        self._pool = pool
        self._search_timeout = search_timeout
        self._searches = asyncio.Semaphore(searches)

    async def fetch_row(self, sql: str, *args: Any) -> Row:
        """
        The single row that a statement returns: one prepared statement, one round trip.
        """
        row: Row | None = await self._run(asyncpg.Connection.fetchrow, sql, args)
        if row is None:
            raise AssertionError("every read joins the revision's row: there is always one")
        return row

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """
        The rows that a statement returns.
        """
        rows: list[Row] = await self._run(asyncpg.Connection.fetch, sql, args)
        return rows

    async def search(self, sql: str, *args: Any, within: float | None = None) -> list[Row]:
        """
        As `fetch`, for a statement that may be expensive.

        Args:
            within: seconds that the caller has left, when that is known.

        Raises:
            DeadlineExceeded: it took longer than a search may.
        """
        seconds = self._search_timeout if within is None else max(min(self._search_timeout, within), 0.001)
        try:
            async with self._searches, self.connection() as connection:
                # One message, so that the limit costs one round trip; both end with the transaction.
                await connection.execute(f"BEGIN READ ONLY; SET LOCAL statement_timeout = {int(seconds * 1000) or 1}")
                rows = await connection.fetch(sql, *args)
                await connection.execute("COMMIT")
                return rows
        except DeadlineExceeded:
            raise DeadlineExceeded(
                "SEARCH_TOO_SLOW", f"the search took longer than {seconds:g} s: narrow it with words or conditions"
            ) from None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """
        A connection for several statements.
        """
        try:
            async with Taken(self._pool) as connection:
                yield connection
        except Exception as error:
            if (known := translated(error)) is not None:
                raise known from error
            raise

    async def ping(self) -> None:
        """
        Raises:
            ModelyardError: the database does not answer.
        """
        await self.fetch_row("SELECT value FROM revision")

    async def _run(self, method: Callable[..., Any], sql: str, args: tuple[Any, ...]) -> Any:
        # Written out instead of `async with`: this is the hot path of every point read.
        pool = self._pool
        try:
            connection = await pool.take()
            try:
                found = await method(connection, sql, *args)
            except BaseException:
                pool.give_broken(connection)
                raise
            pool.give(connection)
        except Exception as error:
            if (known := translated(error)) is not None:
                raise known from error
            raise
        return found


def connector(settings: DatabaseSettings, **server_settings: str) -> Callable[[], Any]:
    """
    What opens one connection.

    Args:
        server_settings: on top of the usual ones.
    """
    own = {
        "application_name": "modelyard-registry",
        "jit": "off",  # compiling takes longer than the statements here
        "statement_timeout": str(int(settings.statement_timeout * 1000)),
        "client_min_messages": "warning",
        "idle_in_transaction_session_timeout": "60000",
        **server_settings,
    }

    async def connect() -> Connection:
        return await asyncpg.connect(
            settings.url,
            password=settings.password,
            timeout=settings.connect_timeout,
            command_timeout=settings.statement_timeout + 5,  # for a server that does not even time out
            statement_cache_size=256,
            max_cached_statement_lifetime=0,
            server_settings=own,
        )

    return connect


@asynccontextmanager
async def open_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """
    Open the pool, waiting for a database that is still starting, and close it when the block ends.

    Raises:
        Unavailable: the database did not answer in time.
    """
    pool = Pool(connector(settings), settings.least, settings.most, settings.patience)
    await patiently(pool.open, settings.startup)
    try:
        yield Database(pool, settings.search_timeout, max(1, settings.most * 3 // 4))
    finally:
        await pool.close()


async def check_schema(database: Database, newest: int) -> None:
    """
    Raises:
        FailedPrecondition: the database has not been migrated as far as this program needs.
    """
    row = await database.fetch_row("SELECT to_regclass('schema_migrations') IS NOT NULL AS exists")
    number = 0
    if row["exists"]:
        number = (await database.fetch_row("SELECT coalesce(max(number), 0) AS number FROM schema_migrations"))[
            "number"
        ]
    if number < newest:
        raise FailedPrecondition(
            "SCHEMA_TOO_OLD",
            f"the database has migration {number} of {newest}: run `python -m services.registry.migrate` first",
        )


async def patiently(attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
    """
    Try until it works or *seconds* are over, waiting longer from time to time and never in step with other processes.

    Raises:
        Unavailable: the database did not answer in time.
    """
    ends = time.monotonic() + seconds
    pause = 0.1
    while True:
        try:
            return await attempt()
        except Exception as error:
            known = translated(error)
            if known is None:
                raise
            if time.monotonic() + pause > ends:
                reason = f"the database did not answer within {seconds:g} s ({error or type(error).__name__})"
                raise Unavailable("DATABASE_UNAVAILABLE", reason) from error
            _log.info("the database does not answer yet (%s): trying again", error or type(error).__name__)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, 2.0)
