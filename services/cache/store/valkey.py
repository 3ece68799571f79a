"""
The connection to Valkey or Redis: one server, or a cluster.

Whatever goes wrong is `Unreachable` (it did not answer in time, or not sensibly) or `Refused` (it answered with an
error); after a few of the first nothing is asked until it is back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from hashlib import sha1
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from services.cache.store.breaker import Breaker

T = TypeVar("T")
_CONNECTIONS = 32
_MOST_DOUBTS = 3


class Unreachable(Exception):  # noqa: N818 - an outcome, not a fault of ours
    """
    Valkey did not answer.
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
        timeout: seconds that a command may take.

    Attributes:
        breaker: whether Valkey is asked at all.
        unreachable: how many commands got no answer.
        refused: how many were answered with an error.
    """

    def __init__(self, url: str, password: str | None = None, *, cluster: bool = False, timeout: float = 0.05) -> None:
        self.cluster = cluster
        self.timeout = timeout
        self.unreachable = 0
        self.refused = 0
        self._doubts = 0
        self.client: Any = _cluster(url, password, timeout) if cluster else _server(url, password, timeout)
        # The cluster's client refuses a command when all its connections are taken, where the other one waits.
        self._turns = asyncio.Semaphore(_CONNECTIONS) if cluster else nullcontext()
        self.breaker = Breaker(self._trial)

    @property
    def connections(self) -> int:
        """
        How many connections are in use.
        """
        if self.cluster:
            return sum(len(node._connections) - len(node._free) for node in self.client.get_nodes())  # noqa: SLF001
        return len(self.client.connection_pool._in_use_connections)  # noqa: SLF001 - redis-py tells it nowhere else

    async def run(self, command: Callable[[Any], Awaitable[T]], *, timeout: float | None = None) -> T:
        """
        Run a command.

        Args:
            command: what to do with redis-py's client.
            timeout: in seconds, where the usual one is too short.

        Raises:
            Unreachable: it is not there, or left alone.
            Refused: it answered with an error.
        """
        if not self.breaker.closed:
            raise Unreachable
        try:
            # Twice, because the first command of a burst has to connect.
            async with asyncio.timeout(2 * (timeout or self.timeout)), self._turns:
                found = await command(self.client)
        except Exception as error:
            # Of bytes that are no answer the client makes errors of any kind.
            raise await self._failure(error) from error
        self.breaker.succeeded()
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

        return await self.run(call, timeout=timeout)

    def doubt(self) -> None:
        """
        What it answered makes no sense: after a few of those in a row it is left alone as if it had not answered.
        """
        self._doubts += 1
        if self._doubts >= _MOST_DOUBTS:
            self.trust()
            self.unreachable += 1
            self.breaker.trip()

    def trust(self) -> None:
        """
        What it answered makes sense.
        """
        self._doubts = 0

    async def close(self) -> None:
        """
        Close the connections.
        """
        await self.breaker.close()
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.client.aclose()

    async def _failure(self, error: Exception) -> Exception:
        if isinstance(error, ReadOnlyError):
            # The server has become a replica: the name now belongs to another one.
            with suppress(Exception):
                await (self.client.aclose() if self.cluster else self.client.connection_pool.disconnect())
        elif isinstance(error, ResponseError) and not isinstance(error, ClusterDownError):
            self.refused += 1
            self.breaker.succeeded()
            return Full(str(error)) if isinstance(error, OutOfMemoryError) else Refused(str(error))
        self.unreachable += 1
        self.breaker.failed()
        return Unreachable(str(error))

    async def _trial(self) -> None:
        async with asyncio.timeout(4 * self.timeout):
            # With a key, so that in a cluster a node that has slots is asked.
            token = os.urandom(8).hex().encode()
            if await self.client.eval("return ARGV[1]", 1, b"modelyard:trial", token) != token:
                raise Unreachable("it answers another question")


def _server(url: str, password: str | None, timeout: float) -> Any:
    # A pool that blocks bounds the connections; more callers than connections wait, within the same timeout.
    pool = BlockingConnectionPool.from_url(
        url,
        password=password,
        max_connections=_CONNECTIONS,
        timeout=timeout,
        protocol=3,
        socket_connect_timeout=2 * timeout,
        socket_timeout=None,  # `run` has the only clock
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
    )
    return redis.asyncio.Redis(connection_pool=pool)


def _cluster(url: str, password: str | None, timeout: float) -> Any:
    return RedisCluster.from_url(
        url,
        password=password,
        protocol=3,
        # Some more, with which it asks for the slots.
        max_connections=_CONNECTIONS + 4,
        socket_connect_timeout=2 * timeout,
        retry=Retry(NoBackoff(), 2),
    )
