"""
A connection pool with no overhead on the fast path: acquiring and releasing an idle connection never awaits.

asyncpg's own pool resets every connection with a round trip and wraps it in a proxy, which made a point read several
times slower than on a bare connection. Nothing here leaves session state on a connection (settings are SET LOCAL), so
no reset is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

import asyncpg

from services.chassis.errors import ModelyardError, ResourceExhausted
from services.chassis.serving.background import Chores
from services.ledger.store.database_errors import CONNECTION_ERRORS, translate_error

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]  # generic in its stubs only
else:
    Connection = asyncpg.Connection

_RESET_SECONDS = 5.0
_REFUSED_SECONDS = 0.2


class Pool:
    """
    Up to *most* connections, handed out last in, first out; waiters are served in the order they came.

    Args:
        connect: opens one connection.
        least: how many are opened at start.
        most: how many there may be.
        patience: seconds that a call waits for a connection before it fails.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], least: int, most: int, patience: float) -> None:
        self._connect = connect
        self._least, self._most, self._patience = least, most, patience
        self._idle: list[Connection] = []
        self._size = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._resets = Chores("mend-connections")
        self._refused: tuple[float, Exception] | None = None

    @property
    def size(self) -> int:
        """
        How many connections are open.
        """
        return self._size

    @property
    def idle(self) -> int:
        """
        How many of them are idle.
        """
        return len(self._idle)

    @property
    def most(self) -> int:
        """
        How many there may be.
        """
        return self._most

    @property
    def waiting(self) -> int:
        """
        How many calls wait for a connection.
        """
        return len(self._waiting)

    async def open(self) -> None:
        """
        Open the first connections.

        Raises:
            OSError, asyncpg.PostgresError, TimeoutError: the database does not answer.
        """
        for connection in [await self._grow() for _ in range(self._least)]:
            self.release(connection)

    async def close(self) -> None:
        """
        Close the idle connections; calls have ended by now.
        """
        await self._resets.finish()
        self._most = 0
        while self._idle:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._idle.pop().close(timeout=2)

    async def acquire(self) -> Connection:
        """
        Acquire a connection, which must be released.

        Raises:
            ResourceExhausted: none became free in time.
            OSError, asyncpg.PostgresError, TimeoutError: the database does not answer.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._size -= 1
        if self._size < self._most:
            return await self._grow()
        return await self._wait()

    def release(self, connection: Connection) -> None:
        """
        Release a connection that is outside a transaction and runs no statement.
        """
        if connection.is_closed():
            self._lost()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def release_broken(self, connection: Connection) -> None:
        """
        Release a connection after an error: it may still be cancelling a statement or be in a transaction.
        """
        if connection.is_closed():
            self._lost()
            return
        self._resets.add(self._reset(connection))

    async def _reset(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(_RESET_SECONDS):
                # Waits until a cancelled statement has ended.
                await connection.execute("ROLLBACK" if connection.is_in_transaction() else "SELECT")
        except BaseException as error:
            # Whatever the error, the slot in the pool must be freed.
            connection.terminate()
            self._lost()
            if not isinstance(error, (*CONNECTION_ERRORS, asyncio.CancelledError)):
                raise
        else:
            self.release(connection)

    async def _grow(self) -> Connection:
        if self._refused and not self._size and time.monotonic() < self._refused[0]:
            # The database has just refused a connection: fail fast for the calls that queue behind this one.
            raise self._refused[1]
        self._size += 1
        try:
            connection = await self._connect()
        except BaseException as error:
            if isinstance(error, Exception):
                self._refused = (time.monotonic() + _REFUSED_SECONDS, error)
            self._lost()
            raise
        self._refused = None
        return connection

    async def _wait(self) -> Connection:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                connection = await waiter
        except TimeoutError:
            self._pass_on(waiter)
            raise ResourceExhausted(
                "DATABASE_BUSY",
                f"all {self._most} connections to the database were busy for {self._patience:g} s: retry later",
                retry_after=1.0,
            ) from None
        except asyncio.CancelledError:
            self._pass_on(waiter)
            raise
        return connection if connection is not None else await self.acquire()

    def _pass_on(self, waiter: asyncio.Future[Connection | None]) -> None:
        # A connection may have arrived just as the waiter timed out: hand it to the next waiter.
        if waiter.done() and not waiter.cancelled():
            connection = waiter.result()
            if connection is not None:
                self.release(connection)
            else:
                self._wake()
        waiter.cancel()

    def _lost(self) -> None:
        self._size -= 1
        self._wake()

    def _wake(self) -> None:
        # A slot is free: let the first waiter open a connection.
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class ConnectionLease:
    """
    `async with ConnectionLease(pool) as connection`: releases the connection at the end of the block, after a reset if
    a statement or transaction may be in progress. Driver errors are raised as `ModelyardError`s.

    A class and not a generator: an event loop that shuts down closes generators in the middle of their block, and the
    connection would be handed to another caller while the block still uses it.
    """

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        try:
            self._connection = await self._pool.acquire()
        except Exception as error:
            _raise_translated(error)
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        known = error is None or isinstance(error, ModelyardError | asyncpg.PostgresError)
        if known and not self._connection.is_in_transaction():
            self._pool.release(self._connection)
        else:
            self._pool.release_broken(self._connection)
        if error is not None:
            _raise_translated(error)


def _raise_translated(error: BaseException) -> None:
    if (translated := translate_error(error)) is not None:
        raise translated from error
