"""
The connection to Valkey or Redis: one server, or a cluster.

Every failure is `Unreachable` (no answer in time, or a malformed one) or `Refused` (an error reply). After several
consecutive `Unreachable`, the circuit breaker opens.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
)

from services.cache.store.breaker import Breaker
from services.cache.store.breakers import Breakers
from services.cache.store.timeouts import PeerTimeout

T = TypeVar("T")
_CONNECTIONS = 32
# Maximum number of callers that wait for a connection; each costs some kilobytes.
_MOST_WAITING = 10_000
_MOST_MALFORMED = 3
# The key of commands without one: in a cluster, the server of this key runs them.
_ANY = b"modelyard:any"


class Unreachable(Exception):  # noqa: N818 - an outcome, not a programming error
    """
    Valkey did not answer.
    """


class Busy(Unreachable):
    """
    Too many concurrent calls in this process: Valkey was not called, and its state is unknown.
    """


class Refused(Exception):  # noqa: N818 - an outcome, not a programming error
    """
    Valkey answered with an error, such as no memory left or a wrong type.
    """


class Full(Refused):
    """
    Valkey has no memory left.
    """


class Script:
    """
    A Lua script that Valkey runs atomically.

    Args:
        text: its source. All keys that it uses are in the hash slot of the first one.
    """

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Valkey:
    """
    A client of Valkey with timeouts, a bounded queue for connections, and circuit breakers.

    Args:
        url: redis://host:port/database; of a cluster, one of its nodes.
        password: None when none is required.
        cluster: whether the server is a node of a cluster.
        timeout: of a command in seconds, from the moment it has a connection.
        patience: seconds to wait for a connection; None for no limit.
        connections: size of the pool, per server of a cluster.

    Attributes:
        breakers: the circuit breakers.
        unreachable: commands without an answer.
        refused: commands answered with an error.
    """

    def __init__(
        self,
        url: str,
        password: str | None = None,
        *,
        cluster: bool = False,
        timeout: float = 0.05,
        patience: float | None = None,
        connections: int = _CONNECTIONS,
    ) -> None:
        self.cluster = cluster
        self.timeout = timeout
        self.unreachable = 0
        self.refused = 0
        self._malformed = 0
        self.client: Any = (_cluster if cluster else _server)(url, password, timeout, connections)
        self._connections = connections
        self._patience = patience
        # Waiting for a pooled connection says nothing about Valkey: the timeout of a command starts after it.
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._waiting = 0
        self.breakers = Breakers(self._trial)

    @property
    def connections(self) -> int:
        """
        How many connections are in use.
        """
        if self.cluster:
            return sum(len(node._connections) - len(node._free) for node in self.client.get_nodes())  # noqa: SLF001
        return len(self.client.connection_pool._in_use_connections)  # noqa: SLF001 - redis-py has no public API for it

    def shard(self, key: bytes) -> str:
        """
        The name of the server that holds *key*; empty for a single server, or while it is unknown.
        """
        if not self.cluster:
            return ""
        try:
            name: str = self.client.get_node_from_key(key).name
        except RedisClusterException:
            return ""
        return name

    async def run(
        self, command: Callable[[Any], Awaitable[T]], *, key: bytes = _ANY, timeout: float | None = None
    ) -> T:
        """
        Run a command.

        Args:
            command: what to do with redis-py's client.
            key: one of the command's keys; all of them are on one server.
            timeout: in seconds, in place of the default.

        Raises:
            Unreachable: Valkey does not answer, or the circuit breaker is open.
            Refused: it answered with an error.
        """
        shard = self.shard(key)
        breaker = self.breakers.of(shard, key)
        if not breaker.closed:
            raise Unreachable
        slots = self._slots.get(shard)
        if slots is None:
            slots = self._slots[shard] = asyncio.Semaphore(self._connections)
        await self._acquire(slots)
        try:
            # Concurrent calls may have opened it meanwhile.
            if not breaker.closed:
                raise Unreachable
            try:
                # Twice, because the first command of a burst has to connect.
                async with PeerTimeout(2 * (timeout or self.timeout)):
                    found = await command(self.client)
            except Exception as error:
                # Malformed answers make redis-py raise errors of any type.
                raise await self._failure(error, breaker) from error
        finally:
            slots.release()
        breaker.succeeded()
        return found

    async def script(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | int | str],
        *,
        timeout: float | None = None,
    ) -> Any:
        """
        Run a script.

        Args:
            timeout: as for `run`.

        Raises:
            Unreachable, Refused: as `run`.
        """

        async def call(client: Any) -> Any:
            try:
                return await client.evalsha(script.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                # The server was restarted and has lost its scripts.
                return await client.eval(script.text, len(keys), *keys, *arguments)

        return await self.run(call, key=keys[0], timeout=timeout)

    def malformed(self, key: bytes) -> None:
        """
        Record a malformed answer: several in a row open the circuit breaker.

        Args:
            key: of the request.
        """
        self._malformed += 1
        if self._malformed >= _MOST_MALFORMED:
            self.well_formed()
            self.unreachable += 1
            self.breakers.of(self.shard(key), key).trip()

    def well_formed(self) -> None:
        """
        Record a well-formed answer.
        """
        self._malformed = 0

    async def close(self) -> None:
        """
        Close the connections.
        """
        await self.breakers.close()
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.client.aclose()

    async def _acquire(self, slots: asyncio.Semaphore) -> None:
        """
        Wait for a connection.

        Raises:
            Busy: too many callers wait, or the wait took too long.
        """
        if self._waiting >= _MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            if slots.locked():
                async with asyncio.timeout(self._patience):
                    await slots.acquire()
            else:
                await slots.acquire()
        except TimeoutError:
            raise Busy from None
        finally:
            self._waiting -= 1

    async def _failure(self, error: Exception, breaker: Breaker) -> Exception:
        if isinstance(error, ReadOnlyError):
            # The server has become a replica: reconnect, so that its name resolves to the new primary.
            with suppress(Exception):
                await (self.client.aclose() if self.cluster else self.client.connection_pool.disconnect())
        elif isinstance(error, ResponseError) and not isinstance(error, ClusterDownError):
            self.refused += 1
            breaker.succeeded()
            return Full(str(error)) if isinstance(error, OutOfMemoryError) else Refused(str(error))
        self.unreachable += 1
        breaker.failed()
        return Unreachable(str(error))

    async def _trial(self, key: bytes) -> None:
        async with asyncio.timeout(4 * self.timeout):
            token = os.urandom(8).hex().encode()
            if await self.client.eval("return ARGV[1]", 1, key, token) != token:
                raise Unreachable("the answer does not match the request")


def _server(url: str, password: str | None, timeout: float, connections: int) -> Any:
    # `run` admits no more callers than there are connections.
    pool = BlockingConnectionPool.from_url(
        url,
        password=password,
        max_connections=connections,
        timeout=timeout,
        protocol=3,
        # Timeouts are enforced by `run` only.
        socket_connect_timeout=None,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
    )
    return redis.asyncio.Redis(connection_pool=pool)


def _cluster(url: str, password: str | None, timeout: float, connections: int) -> Any:
    return RedisCluster.from_url(
        url,
        password=password,
        protocol=3,
        # Some more, for the discovery of slots.
        max_connections=connections + 4,
        # So that a silent node is skipped during slot discovery, within the timeout of a longer command.
        socket_connect_timeout=max(0.5, 2 * timeout),
        retry=Retry(NoBackoff(), 2),
    )
