"""
Fault injection: every kind of fault in random order, repeatedly.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import redis.asyncio as redis

from embedded.link import Link
from embedded.parts import Part
from embedded.postgres import Postgres
from embedded.supervisor import Supervisor
from tests.drills.coherence.caches import Cache

_Kind = Callable[["FaultInjector", Cache], Awaitable[None]]


class FaultInjector:
    """
    Injects faults into caches and their upstreams.

    Args:
        caches: the last one uses only the second registry.
        supervisor: kills and starts processes.
        registry: the second one, which serves caches and is killed; it also reads from the replica.
        valkey: its part and URL.
        databases: the primary and its replica.
        longest: the longest stall in seconds; more than the bound.
        dice: chooses faults, caches and durations.

    Attributes:
        done: how often each kind was injected.
    """

    def __init__(
        self,
        caches: Sequence[Cache],
        supervisor: Supervisor,
        registry: Part,
        valkey: tuple[Part, str],
        databases: tuple[Postgres, Postgres],
        longest: float,
        dice: random.Random,
    ) -> None:
        self._caches, self._supervisor, self._registry = caches, supervisor, registry
        self._valkey, self._valkey_url = valkey
        self._primary, self._replica = databases
        self._longest, self._dice = longest, dice
        self._killing = asyncio.Lock()
        self._left: list[str] = []
        self.done: Counter[str] = Counter()

    @property
    def missing(self) -> set[str]:
        """
        The kinds that have not been injected yet.
        """
        return set(KINDS) - set(self.done)

    async def run(self) -> None:
        """
        Inject one fault after the other, each into one cache, until cancelled.
        """
        while True:
            if not self._left:
                bag = [*sorted(KINDS), *_TWICE]
                self._left = self._dice.sample(bag, len(bag))
            kind = self._left.pop()
            cache = self._caches[-1] if kind == "trim the log" else self._dice.choice(self._caches)
            async with cache.busy:
                await KINDS[kind](self, cache)
            self.done[kind] += 1
            await asyncio.sleep(self._dice.uniform(0, 0.5))

    async def _cut(self, cache: Cache) -> None:
        for _ in range(3):
            for link in cache.registries:
                link.cut()
            await asyncio.sleep(0.2)

    async def _stall(self, cache: Cache) -> None:
        await self._hold(cache.registries)

    async def _stall_requests(self, cache: Cache) -> None:
        await self._hold(self._one(cache), back=False)

    async def _stall_answers(self, cache: Cache) -> None:
        await self._hold(self._one(cache), there=False)

    async def _hold(self, links: Sequence[Link], **ways: bool) -> None:
        # Longer than the bound; everything that was held arrives afterwards.
        for link in links:
            link.hang(**ways)
        await asyncio.sleep(self._dice.uniform(self._longest - 2, self._longest))
        for link in links:
            link.release()

    def _one(self, cache: Cache) -> Sequence[Link]:
        """
        One of the links: changes still arrive over the other one.
        """
        return [self._dice.choice(cache.registries)]

    async def _slow(self, cache: Cache) -> None:
        for link in cache.registries:
            link.delay = 0.3
        await asyncio.sleep(self._dice.uniform(0.5, 1.5))
        for link in cache.registries:
            link.delay = 0.0

    async def _stall_assets(self, cache: Cache) -> None:
        cache.cdn.hang()
        await asyncio.sleep(self._dice.uniform(0.5, self._longest - 1))
        cache.cdn.release()

    async def _cut_valkey(self, cache: Cache) -> None:
        cache.valkey.cut()

    async def _stall_valkey(self, cache: Cache) -> None:
        cache.valkey.hang()
        await asyncio.sleep(self._dice.uniform(0.3, 1))
        cache.valkey.release()

    async def _kill_valkey(self, _cache: Cache) -> None:
        async with self._killing:
            await self._restart(self._valkey)

    async def _flush_valkey(self, _cache: Cache) -> None:
        async with self._killing:
            await self._in_valkey(lambda client: client.flushall())

    async def _lose_keys(self, _cache: Cache) -> None:
        async def lose(client: Any) -> None:
            keys = [key async for key in client.scan_iter(count=1000)]
            for key in self._dice.sample(sorted(keys), len(keys) // 2):
                await client.delete(key)

        async with self._killing:
            await self._in_valkey(lose)

    async def _trim(self, cache: Cache) -> None:
        """
        Delete the revisions that a cache has not received from the log, and restart the registry, which buffers them.
        """
        for link in cache.registries:
            link.hang()
        async with self._killing:
            await asyncio.sleep(1)
            await self._sql(self._primary, "DELETE FROM changes WHERE revision < (SELECT max(revision) FROM changes)")
            await self._restart(self._registry)
        for link in cache.registries:
            link.go_on()

    async def _lag(self, _cache: Cache) -> None:
        await self._sql(self._replica, "SELECT pg_wal_replay_pause()")
        await asyncio.sleep(self._dice.uniform(1, self._longest - 1))
        await self._sql(self._replica, "SELECT pg_wal_replay_resume()")

    async def _kill_registry(self, _cache: Cache) -> None:
        async with self._killing:
            await self._restart(self._registry)

    async def _kill_cache(self, cache: Cache) -> None:
        await cache.restart()

    async def _restart(self, part: Part) -> None:
        await asyncio.to_thread(self._supervisor.kill, part.name)
        await asyncio.to_thread(self._supervisor.start, [part])

    async def _in_valkey(self, work: Callable[[Any], Awaitable[object]]) -> None:
        async with redis.Redis.from_url(self._valkey_url) as client:
            await work(client)

    async def _sql(self, server: Postgres, statement: str) -> None:
        connection = await asyncpg.connect(server.url())
        await connection.execute(statement)
        await connection.close()


KINDS: dict[str, _Kind] = {
    "cut": FaultInjector._cut,
    "stall": FaultInjector._stall,
    "stall requests": FaultInjector._stall_requests,
    "stall answers": FaultInjector._stall_answers,
    "slow": FaultInjector._slow,
    "stall assets": FaultInjector._stall_assets,
    "cut valkey": FaultInjector._cut_valkey,
    "stall valkey": FaultInjector._stall_valkey,
    "kill valkey": FaultInjector._kill_valkey,
    "flush valkey": FaultInjector._flush_valkey,
    "lose keys": FaultInjector._lose_keys,
    "trim the log": FaultInjector._trim,
    "lag": FaultInjector._lag,
    "kill registry": FaultInjector._kill_registry,
    "kill cache": FaultInjector._kill_cache,
}
# More often, because they expose most: one cache has one link with and one without changes.
_TWICE = ("stall answers", "stall requests")
