"""
The caches of a schedule: the real coherence, follower, loader and handlers, between an in-memory registry and an
in-memory L2 cache.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import grpc

from services.cache.metrics import CacheMetrics, Counts
from services.cache.model.coherence import Coherence
from services.cache.model.entries import Entry
from services.cache.model.hot_keys import HotKeys
from services.cache.model.l1 import L1Cache
from services.cache.read_through.follower import Follower
from services.cache.read_through.handler import ReadThrough
from services.cache.read_through.loader import CacheLevels
from services.cache.read_through.origin import Metadata, Origin
from services.cache.read_through.policies import policies
from services.cache.store.l2 import L2Cache
from services.cache.tests.schedules.network import Link
from services.cache.tests.schedules.registry import QUESTIONS, Question, Registry

BOUND = 2.0
_KINDS = ("models", "searches", "cards", "deployments", "assets")
_ALL = {policy.path: policy for policy in policies()}
_POLICIES = [_ALL[path] for path in sorted({question.path for question in QUESTIONS})]


class Store:
    """
    Stands in for Valkey and the `L2Cache` in front of it.

    Args:
        registry: its random choices decide delays and losses.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._entries: dict[bytes, bytes] = {}
        self._revisions: dict[bytes, int] = {}
        self._leases: dict[bytes, tuple[str, float]] = {}

    async def get(self, key: bytes) -> Entry | None:
        """
        See `L2Cache.get`.
        """
        await self._registry.passing(longest=0.05)
        return self._entry(key)

    async def put(self, key: bytes, entry: Entry, _seconds: float, token: str = "") -> None:
        """
        See `L2Cache.put`.
        """
        await self._registry.passing()
        if self._revisions.get(key, 0) <= entry.revision:
            self._revisions[key] = entry.revision
            self._entries[key] = entry.encode(key)
        await self._end(key, token)

    async def lease(self, key: bytes, token: str) -> tuple[bool | None, Entry | None]:
        """
        See `L2Cache.lease`.
        """
        await self._registry.passing(longest=0.05)
        if self._registry.dice.random() < 0.02:
            return None, None
        now = time.monotonic()
        held = self._leases.get(key, ("", 0.0))[1] < now
        if held:
            self._leases[key] = (token, now + 5.0)
        return held, self._entry(key)

    async def release(self, key: bytes, token: str) -> None:
        """
        See `L2Cache.release`.
        """
        await self._end(key, token)

    def lose(self, share: float) -> None:
        """
        Lose this share of the entries.
        """
        for key in list(self._entries):
            if self._registry.dice.random() < share:
                del self._entries[key], self._revisions[key]
                self._leases.pop(key, None)

    async def _end(self, key: bytes, token: str) -> None:
        if token and self._leases.get(key, ("", 0.0))[0] == token:
            del self._leases[key]

    def _entry(self, key: bytes) -> Entry | None:
        data = self._entries.get(key)
        return None if data is None else Entry.decode(key, data)


class AbortedError(Exception):
    """
    The call ended with a status.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code


class Call:
    """
    The context of one call.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.trailing: dict[str, Any] = {}

    def invocation_metadata(self) -> Metadata:
        """
        See `Context`.
        """
        return self._metadata

    def set_trailing_metadata(self, trailing: Sequence[tuple[str, Any]]) -> None:
        """
        See `Context`.
        """
        self.trailing = dict(trailing)

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """
        See `Context`.
        """
        raise AbortedError(code, details)


def small() -> dict[str, int]:
    """
    The arguments of `Coherence` for a table that is too small for the names, whatever they are called.
    """
    names = inspect.signature(Coherence).parameters
    found = {name: few for name, few in (("most_tags", 6), ("cells", 8)) if name in names}
    assert found, f"the size of the table is none of {sorted(names)}"
    return found


class Cache:
    """
    One process of the cache.

    Args:
        registry: behind it.
        store: L2.
    """

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store
        self._following: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()
        self._begin()

    async def ask(self, question: Question, call: Call) -> bytes:
        """
        Serve a read.
        """
        return await self._reads[question.path].serve(question.request, cast(Any, call))

    def restart(self) -> None:
        """
        Lose all state, like a process that was killed.
        """
        self.end()
        self._begin()

    def end(self) -> None:
        """
        Stop following the change stream.
        """
        for kind in _KINDS:
            self.counts.update(_numbers(self._metrics.of(kind)))
        if self._following is not None:
            self._following.cancel()

    def _begin(self) -> None:
        near, self._metrics = L1Cache(1 << 20), CacheMetrics()
        few: dict[str, Any] = small() if self._registry.dice.random() < 0.5 else {}
        coherence = Coherence(bound=BOUND, clock=time.monotonic, hashed=self._registry.hashed, **few)
        levels = CacheLevels(
            near,
            cast(L2Cache, self._store),
            dict.fromkeys(_KINDS, 30.0),
            absent_ttl=5.0,
            grace=60.0,
            most_value_bytes=1 << 20,
            lease_wait=0.5,
            metrics=self._metrics,
        )
        link, hot = cast(Origin, Link(self._registry)), HotKeys(0)
        self._reads = {policy.path: ReadThrough(policy, link, coherence, levels, hot) for policy in _POLICIES}
        self._following = asyncio.create_task(self._follow(Follower(link, coherence, near.clear)))

    async def _follow(self, follower: Follower) -> None:
        async with follower.following():
            await asyncio.Event().wait()


def _numbers(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in Counts.__slots__}
