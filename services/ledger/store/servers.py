"""
One PostgreSQL server: measured statements on pooled connections. Driver errors leave it as `services.chassis.errors`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from services.chassis.errors import DeadlineExceeded, ModelyardError
from services.chassis.serving.background import Chores
from services.ledger.store.database_errors import translate_error
from services.ledger.store.pool import Connection, ConnectionLease, Pool
from services.ledger.store.query_stats import QueryRecorder
from services.ledger.store.statements import Statement

Row = asyncpg.Record

_EXPLAIN_EVERY_SECONDS = 60.0
_PLANNED = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "VALUES"})
_PLAN = Statement("explain", "SELECT line FROM generic_plan($1) AS line")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Searches:
    """
    Limits for searches.

    Args:
        timeout: seconds that one may take.
        at_once: maximum concurrency: slow searches must not take every connection from the point reads.
        settings: database settings for each search, as "name = value".
    """

    timeout: float
    at_once: int
    settings: Sequence[str] = ()


class Server:
    """
    A server, the primary or a replica.

    Args:
        name: "primary" or "replica 1".
        pool: the connections to it.
        queries: counts the statements.
        searches: limits for searches.
    """

    def __init__(self, name: str, pool: Pool, queries: QueryRecorder, searches: Searches) -> None:
        self.name = name
        self.pool = pool
        self.queries = queries
        self._search_timeout = searches.timeout
        self._search_settings = "".join(f"; SET LOCAL {one}" for one in searches.settings)
        self._searches = asyncio.Semaphore(searches.at_once)

    async def fetch_row(self, statement: Statement, args: Sequence[Any]) -> Row | None:
        """
        The first row that a statement returns: one prepared statement, one round trip.
        """
        row: Row | None = await self._run(asyncpg.Connection.fetchrow, statement, args)
        return row

    async def fetch(self, statement: Statement, args: Sequence[Any]) -> list[Row]:
        """
        The rows that a statement returns.
        """
        rows: list[Row] = await self._run(asyncpg.Connection.fetch, statement, args)
        return rows

    async def search(self, work: Callable[[Snapshot], Awaitable[list[Row]]], within: float | None) -> list[Row]:
        """
        Run statements that may be expensive, all on one snapshot.

        Args:
            work: runs them.
            within: seconds that the caller has left, when that is known.

        Raises:
            DeadlineExceeded: it took longer than a search may.
        """
        seconds = self._search_timeout if within is None else max(min(self._search_timeout, within), 0.001)
        # Force custom plans: a generic plan fits no particular word well. Parallel workers would make one search faster
        # and ten concurrent searches slower.
        settings = (
            f"SET LOCAL statement_timeout = {int(seconds * 1000) or 1}; SET LOCAL plan_cache_mode = force_custom_plan; "
            "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL random_page_cost = 1.1" + self._search_settings
        )
        try:
            async with self._searches, self.connection() as connection:
                # One message, so that the settings cost one round trip; all end with the transaction.
                await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings}")
                rows = await work(Snapshot(self, connection))
                await connection.execute("COMMIT")
                return rows
        except DeadlineExceeded:
            raise DeadlineExceeded(
                "SEARCH_TOO_SLOW", f"the search took longer than {seconds:g} s: narrow it with words or conditions"
            ) from None

    def connection(self) -> ConnectionLease:
        """
        A connection for several statements.
        """
        return ConnectionLease(self.pool)

    async def on(
        self, connection: Connection, method: Callable[..., Any], statement: Statement, args: Sequence[Any]
    ) -> Any:
        """
        Run a statement on a connection and count it.

        Args:
            method: of the connection: `fetch`, `fetchrow` or `execute`.
        """
        began = time.perf_counter()
        try:
            found = await method(connection, statement.sql, *args)
        except BaseException as error:
            self.queries.failed(statement, began, error)
            raise
        self.queries.done(statement, began, len(found) if isinstance(found, list) else found is not None)
        return found

    async def _run(self, method: Callable[..., Any], statement: Statement, args: Sequence[Any]) -> Any:
        # Written out instead of `async with`: this is the hot path of every point read.
        pool = self.pool
        try:
            connection = await pool.acquire()
            try:
                found = await self.on(connection, method, statement, args)
            except BaseException:
                pool.release_broken(connection)
                raise
            pool.release(connection)
        except Exception as error:
            if (known := translate_error(error)) is not None:
                raise known from error
            raise
        return found


class Snapshot:
    """
    The statements of one search; all run on the same snapshot.
    """

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._connection = connection

    async def fetch(self, statement: Statement, args: Sequence[Any]) -> list[Row]:
        """
        The rows that a statement returns.
        """
        rows: list[Row] = await self._server.on(self._connection, asyncpg.Connection.fetch, statement, args)
        return rows


class Explainer:
    """
    Logs the plans of slow statements, without the values: EXPLAIN (GENERIC_PLAN).

    Args:
        server: runs the EXPLAIN statements.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._explained: dict[str, float] = {}
        self._chores = Chores("explain-statements")

    def __call__(self, statement: Statement) -> None:
        """
        Log the plan of *statement* in the background, unless that was done recently.
        """
        now = time.monotonic()
        planned = statement.sql.split(None, 1)[0].upper() in _PLANNED
        if not planned or now - self._explained.get(statement.name, float("-inf")) < _EXPLAIN_EVERY_SECONDS:
            return
        self._explained[statement.name] = now
        self._chores.add(self._explain(statement))

    async def _explain(self, statement: Statement) -> None:
        try:
            rows = await self._server.fetch(_PLAN, [statement.sql])
        except ModelyardError as error:
            _log.warning("no plan of %s: %s", statement.name, error)
            return
        plan = "\n".join(row["line"] for row in rows)
        _log.warning("plan of %s: %s", statement.name, plan, extra={"statement": statement.name, "plan": plan})
