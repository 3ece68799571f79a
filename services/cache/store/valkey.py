"""
The connection to Valkey or Redis: one server, or a cluster.

Whatever goes wrong is `Unreachable` (it did not answer in time, or not sensibly) or `Refused` (it answered with an
error); after a few of the first nothing is asked until it is back.
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
# Callers that wait for a connection. Each costs some kilobytes.
_MOST_WAITING = 10_000
_MOST_DOUBTS = 3
# What is asked for where any server will do: in a cluster, the one that has this key.
_ANY = b"modelyard:any"


class Unreachable(Exception):  # noqa: N818 - an outcome, not a fault of ours
    """
    Valkey did not answer.
    """


class Busy(Unreachable):
    """
    There were too many calls of our own: Valkey was not asked, and nothing is known of it.
    """


class Refused(Exception):  # noqa: N818 - an outcome, not a fault of ours
    """
    Valkey answered with an error: no memory left, another type of value.
    """


class Full(Refused):
    """
    Valkey has no memory left.
    """


class Script:
    """
    A Lua script that Valkey runs as one step.

    Args:
        text: its source. All keys that it uses are in the hash slot of the first.
    """

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Valkey:
    """
    Valkey, as the stores use it.

    Args:
        url: redis://host:port/database; of a cluster, one of its nodes.
        password: None when it asks for none.
        cluster: whether the server is a node of a cluster.
        timeout: seconds that a command may take, from the moment in which it has a connection.
        patience: seconds that a caller waits for a connection; None for as long as it likes.
        connections: how many there are at the most; of a cluster, to each server.

    Attributes:
        breakers: whether Valkey is asked at all.
        unreachable: how many commands got no answer.
        refused: how many were answered with an error.
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
        self._doubts = 0
        self.client: Any = (_cluster if cluster else _server)(url, password, timeout, connections)
        self._connections = connections
        self._patience = patience
        # Who waits for one of our connections says nothing of Valkey: the clock of a command starts after that.
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting = 0
        self.breakers = Breakers(self._trial)

    @property
    def connections(self) -> int:
        """
        How many connections are in use.
        """
        if self.cluster:
            return sum(len(node._connections) - len(node._free) for node in self.client.get_nodes())  # noqa: SLF001
        return len(self.client.connection_pool._in_use_connections)  # noqa: SLF001 - redis-py tells it nowhere else

    def shard(self, key: bytes) -> str:
        """
        The name of the server that has *key*; empty when there is only one, or while it is not known.
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
            key: one of the command's; all of them are on one server.
            timeout: in seconds, where the usual one is too short.

        Raises:
            Unreachable: it is not there, or left alone.
            Refused: it answered with an error.
        """
        shard = self.shard(key)
        breaker = self.breakers.of(shard, key)
        if not breaker.closed:
            raise Unreachable
        turns = self._turns.get(shard)
        if turns is None:
            turns = self._turns[shard] = asyncio.Semaphore(self._connections)
        await self._turn(turns)
        try:
            # Others may have found out meanwhile.
            if not breaker.closed:
                raise Unreachable
            try:
                # Twice, because the first command of a burst has to connect.
                async with PeerTimeout(2 * (timeout or self.timeout)):
                    found = await command(self.client)
            except Exception as error:
                # Of bytes that are no answer the client makes errors of any kind.
                raise await self._failure(error, breaker) from error
        finally:
            turns.release()
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
                # It was started anew.
                return await client.eval(script.text, len(keys), *keys, *arguments)

        return await self.run(call, key=keys[0], timeout=timeout)

    def doubt(self, key: bytes) -> None:
        """
        What it answered makes no sense: after a few of those in a row it is left alone as if it had not answered.

        Args:
            key: that was asked for.
        """
        self._doubts += 1
        if self._doubts >= _MOST_DOUBTS:
            self.trust()
            self.unreachable += 1
            self.breakers.of(self.shard(key), key).trip()

    def trust(self) -> None:
        """
        What it answered makes sense.
        """
        self._doubts = 0

    async def close(self) -> None:
        """
        Close the connections.
        """
        await self.breakers.close()
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.client.aclose()

    async def _turn(self, turns: asyncio.Semaphore) -> None:
        """
        Wait for a connection.

        Raises:
            Busy: too many wait, or for too long.
        """
        if self._waiting >= _MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            if turns.locked():
                async with asyncio.timeout(self._patience):
                    await turns.acquire()
            else:
                await turns.acquire()
        except TimeoutError:
            raise Busy from None
        finally:
            self._waiting -= 1

    async def _failure(self, error: Exception, breaker: Breaker) -> Exception:
        if isinstance(error, ReadOnlyError):
            # The server has become a replica: the name now belongs to another one.
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
                raise Unreachable("it answers another question")


def _server(url: str, password: str | None, timeout: float, connections: int) -> Any:
    # `run` lets no more in than there are connections.
    pool = BlockingConnectionPool.from_url(
        url,
        password=password,
        max_connections=connections,
        timeout=timeout,
        protocol=3,
        # `run` has the only clock.
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
        # Some more, with which it asks for the slots.
        max_connections=connections + 4,
        # So that another node is asked where the slots are when one is silent, within the time of a longer command.
        socket_connect_timeout=max(0.5, 2 * timeout),
        retry=Retry(NoBackoff(), 2),
    )
