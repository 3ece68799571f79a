"""
A service's database: a primary, and replicas for the reads that they may answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, ModelyardError, Unavailable
from services.ledger.store.database_errors import translate_error
from services.ledger.store.pool import Connection, ConnectionLease, Pool
from services.ledger.store.query_stats import QueryRecorder
from services.ledger.store.replicas import Replicas
from services.ledger.store.retries import Retries
from services.ledger.store.servers import Explainer, Row, Searches, Server, Snapshot
from services.ledger.store.statements import HEAD, Statement

T = TypeVar("T")

# The revision that the reads of the current call must reflect at least; 0 when the caller does not care.
min_revision: ContextVar[int] = ContextVar("min_revision", default=0)

_PING = Statement("revision.ping", f"SELECT value FROM {HEAD}")  # noqa: S608 - only constants are interpolated

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """
    How to reach the database and how much of it to use.

    Args:
        url: postgresql://user@host:port/database, without a password.
        replicas: the same for read replicas.
        password: None where the servers trust the user.
        least, most: connections in the pool, for each server.
        patience: seconds that a call waits for a connection.
        connect_timeout: seconds that opening a connection may take.
        startup: seconds that the database may take to answer when this process starts.
        statement_timeout: seconds that any statement may take.
        lock_timeout: seconds that any statement may wait for a lock, except those of writes, which set their own limit:
            calls that wait for one row must not occupy every connection.
        idle_timeout: seconds after which the server ends an idle transaction and releases its locks: those of a process
            that was stopped or partitioned in the middle of a write would block everyone else.
        search_timeout: seconds that a search may take.
        slow: seconds from which a statement is logged.
        explain: log the plans of slow statements, too.
        most_lag: seconds that a replica may be behind and still serve.
        application: the application_name of the connections.
        search_settings: on top of those that every search has, as "name = value".
    """

    url: str
    replicas: Sequence[str] = ()
    password: str | None = None
    least: int = 2
    most: int = 20
    patience: float = 2.0
    connect_timeout: float = 3.0
    startup: float = 30.0
    statement_timeout: float = 20.0
    lock_timeout: float = 5.0
    idle_timeout: float = 5.0
    search_timeout: float = 2.0
    slow: float = 0.1
    explain: bool = False
    most_lag: float = 5.0
    application: str = "modelyard"
    search_settings: Sequence[str] = ()


class Database:
    """
    Reads and writes. Driver errors leave it as `services.chassis.errors`.

    Args:
        primary: serves all writes, and the reads that no replica may answer.
        replicas: serve reads that they are recent enough for.
        aside: a separate connection to the primary, for work that must continue when the pool is exhausted.

    Attributes:
        retries: counts retried writes by cause.
    """

    def __init__(self, primary: Server, replicas: Replicas, aside: Server | None = None) -> None:
        self.primary = primary
        self.aside = aside or primary
        self.replicas = replicas
        self.retries = Retries()

    async def fetch_row(self, statement: Statement, *args: Any) -> Row:
        """
        The single row that a statement returns.
        """
        rows = await self.fetch(statement, *args)
        return rows[0]

    async def fetch(self, statement: Statement, *args: Any) -> list[Row]:
        """
        The rows that a statement returns.
        """
        if not statement.anywhere:
            return await self.primary.fetch(statement, args)
        return await self._anywhere(lambda server: server.fetch(statement, args))

    async def search(self, statement: Statement, args: Sequence[Any], *, within: float | None = None) -> list[Row]:
        """
        As `fetch`, for a read that may be expensive.

        Args:
            within: seconds that the caller has left, when that is known.

        Raises:
            DeadlineExceeded: it took longer than a search may.
        """
        return await self.search_with(lambda snapshot: snapshot.fetch(statement, args), within=within)

    async def search_with(
        self, work: Callable[[Snapshot], Awaitable[list[Row]]], *, within: float | None = None
    ) -> list[Row]:
        """
        Run several statements that may be expensive on one snapshot; the rows that are returned have a column `head`.

        Raises:
            DeadlineExceeded: as `search`.
        """
        return await self._anywhere(lambda server: server.search(work, within))

    def connection(self) -> ConnectionLease:
        """
        A connection to the primary for several statements.
        """
        return self.primary.connection()

    async def ping(self) -> None:
        """
        Raises:
            ModelyardError: the primary does not answer.
        """
        await self.primary.fetch_row(_PING, ())

    async def _anywhere(self, ask: Callable[[Server], Awaitable[list[Row]]]) -> list[Row]:
        if self.replicas.all:
            least = min_revision.get()
            replica = self.replicas.pick(least)
            if replica is not None:
                try:
                    rows = await ask(replica.server)
                except DeadlineExceeded:
                    # The primary would take as long.
                    raise
                except ModelyardError as error:
                    replica.failed(error)
                else:
                    replica.saw(rows[0]["head"])
                    if rows[0]["head"] >= least:
                        return rows
        return await ask(self.primary)


def connector(settings: DatabaseSettings, url: str | None = None, **server_settings: str) -> Callable[[], Any]:
    """
    A function that opens one connection.

    Args:
        url: of a replica; the primary's by default.
        server_settings: on top of the usual ones.
    """
    own = {
        "application_name": settings.application,
        "jit": "off",  # compiling takes longer than the statements here
        "statement_timeout": str(int(settings.statement_timeout * 1000)),
        "client_min_messages": "warning",
        "idle_in_transaction_session_timeout": str(int(settings.idle_timeout * 1000)),
        **server_settings,
    }

    async def connect() -> Connection:
        return await asyncpg.connect(
            url or settings.url,
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
    Open the pools, waiting for a primary that is still starting, and close them when the block ends.

    Raises:
        Unavailable: the primary did not answer in time.
    """
    queries = QueryRecorder(settings.slow)

    def server(name: str, url: str, least: int, most: int = settings.most) -> Server:
        lock_timeout = str(int(settings.lock_timeout * 1000))
        pool = Pool(connector(settings, url, lock_timeout=lock_timeout), least, most, settings.patience)
        searches = Searches(settings.search_timeout, max(1, settings.most * 3 // 4), settings.search_settings)
        return Server(name, pool, queries, searches)

    primary = server("primary", settings.url, settings.least)
    aside = server("primary, aside", settings.url, 0, most=1)
    # A replica may be down when we start: its connections are opened when it is first asked.
    others = [server(f"replica {number}", url, 0) for number, url in enumerate(settings.replicas, start=1)]
    if settings.explain:
        queries.on_slow = Explainer(primary)
    replicas = Replicas(others, settings.most_lag)
    async with AsyncExitStack() as stack:
        for each in (primary, aside, *others):
            stack.push_async_callback(each.pool.close)
        await patiently(primary.pool.open, settings.startup)
        if others:
            await stack.enter_async_context(replicas.watching(aside))
        yield Database(primary, replicas, aside)


async def check_schema(database: Database, newest: int, program: str) -> None:
    """
    Args:
        newest: the number of the newest migration.
        program: what runs the migrations, "services.registry.migrate".

    Raises:
        FailedPrecondition: the database has not been migrated as far as this program needs.
    """
    exists = Statement("schema.exists", "SELECT to_regclass('schema_migrations') IS NOT NULL AS exists")
    reached = Statement("schema.reached", "SELECT coalesce(max(number), 0) AS number FROM schema_migrations")
    number = 0
    if (await database.fetch_row(exists))["exists"]:
        number = (await database.fetch_row(reached))["number"]
    if number < newest:
        raise FailedPrecondition(
            "SCHEMA_TOO_OLD",
            f"the database has migration {number} of {newest}: run `python -m {program}` first",
        )


async def patiently(attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
    """
    Retry with exponential backoff and jitter until it succeeds or *seconds* have passed.

    Raises:
        Unavailable: the database did not answer in time.
    """
    ends = time.monotonic() + seconds
    pause = 0.1
    while True:
        try:
            return await attempt()
        except Exception as error:
            known = translate_error(error)
            if known is None:
                raise
            if time.monotonic() + pause > ends:
                reason = f"the database did not answer within {seconds:g} s ({error or type(error).__name__})"
                raise Unavailable("DATABASE_UNAVAILABLE", reason) from error
            _log.info("the database does not answer yet (%s): trying again", error or type(error).__name__)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, 2.0)
