"""
The level of the cache that is shared: Valkey or Redis. The only file that imports redis.

Nothing here can fail a read: what does not answer in time is a miss, and after a few of those nothing is asked for a
while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool
from redis.exceptions import RedisError

_TROUBLE = (RedisError, OSError, TimeoutError)


class Breaker:
    """
    Stops asking something that does not answer (Nygard, "Release It!", the circuit breaker).

    Args:
        failures: how many in a row open it.
        rest: seconds until one call may try again.
        clock: in seconds, for tests.
    """

    __slots__ = ("_clock", "_failed", "_failures", "_rest", "_until")

    def __init__(self, *, failures: int = 3, rest: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._failed = 0
        self._until = 0.0

    @property
    def state(self) -> str:
        """
        closed, open or half-open.
        """
        if self._failed < self._failures:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    def allows(self) -> bool:
        """
        Whether to ask. While it is half-open one caller may.
        """
        if self._failed < self._failures:
            return True
        if self._clock() < self._until:
            return False
        self._until = self._clock() + self._rest
        return True

    def succeeded(self) -> None:
        """
        It answered.
        """
        self._failed = 0

    def failed(self) -> None:
        """
        It did not.
        """
        self._failed += 1
        self._until = self._clock() + self._rest


class SharedStore:
    """
    Bytes by key in Valkey.

    Args:
        url: redis://host:port/database.
        password: None when it asks for none.
        timeout: seconds that one command may take.

    Attributes:
        breaker: whether Valkey is asked at all.
        errors: how many commands failed.
    """

    def __init__(self, url: str, password: str | None = None, *, timeout: float = 0.05) -> None:
        # A pool that blocks bounds the connections; more callers than connections wait, within the same timeout.
        pool = BlockingConnectionPool.from_url(
            url,
            password=password,
            max_connections=32,
            timeout=timeout,
            protocol=3,
            # The first connection of a burst takes longer than a command.
            socket_connect_timeout=4 * timeout,
            socket_timeout=timeout,
            retry_on_error=[],
        )
        self._client = redis.asyncio.Redis(connection_pool=pool)
        self._timeout = timeout
        self.breaker = Breaker()
        self.errors = 0

    async def get(self, key: bytes) -> bytes | None:
        """
        The bytes of *key*; None when there are none, or when Valkey does not say.
        """
        if not self.breaker.allows():
            return None
        try:
            async with asyncio.timeout(5 * self._timeout):
                value = await self._client.get(key)
        except _TROUBLE:
            self._failed()
            return None
        self.breaker.succeeded()
        return value if isinstance(value, bytes) else None

    async def put(self, key: bytes, value: bytes, seconds: float) -> None:
        """
        Keep *value* for *seconds*, if Valkey takes it.
        """
        if not self.breaker.allows():
            return
        try:
            async with asyncio.timeout(5 * self._timeout):
                await self._client.set(key, value, px=max(1, int(seconds * 1000)))
        except _TROUBLE:
            self._failed()
        else:
            self.breaker.succeeded()

    async def close(self) -> None:
        """
        Close the connections.
        """
        with suppress(*_TROUBLE):
            await self._client.aclose()

    def _failed(self) -> None:
        self.errors += 1
        self.breaker.failed()
