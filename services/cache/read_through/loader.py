"""
Loads answers from the origin, once per key in a process (single flight) and once in the fleet (leases in Valkey).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from services.cache.metrics import CacheMetrics
from services.cache.model.coherence import Coherence
from services.cache.model.entries import Entry
from services.cache.model.l1 import L1Cache
from services.cache.read_through.origin import Answer, Metadata, Origin
from services.cache.read_through.policies import Policy
from services.cache.store.l2 import L2Cache

# A load outlives the call that started it, for the others that wait for it; this bounds it.
LOAD_SECONDS = 20.0
# How long loads of a key are not shared after its answer turned out not to be cacheable.
_UNCACHEABLE_SECONDS = 60.0
_MOST_UNCACHEABLE = 10_000
# Polling intervals for an entry that another process loads: initial and maximum.
_POLL_SECONDS = (0.001, 0.02)

_numbers = itertools.count()
_process = f"{os.getpid()}-{os.urandom(6).hex()}"


@dataclass(frozen=True, slots=True)
class CacheLevels:
    """
    The cache levels, and how long answers stay in them.

    Args:
        near: L1, in this process.
        shared: L2, in Valkey.
        ttl: TTL of an answer in seconds, by class.
        absent_ttl: TTL of a NOT_FOUND in seconds (negative caching).
        grace: seconds beyond the TTL in which an answer may be served while the origin is unavailable (stale-if-error).
        most_value_bytes: larger answers are not cached.
        lease_wait: seconds to wait for an answer that another process loads.
        metrics: where to count.
    """

    near: L1Cache
    shared: L2Cache
    ttl: Mapping[str, float]
    absent_ttl: float
    grace: float
    most_value_bytes: int
    lease_wait: float
    metrics: CacheMetrics


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What is loaded.

    Args:
        key: of the entry.
        request: serialized.
        tags: what the answer depends on.
        visibility: what the origin has to say of the answer, if it is to be cached or shared (`x-visibility`); None
            when all answers are for all callers.
    """

    key: bytes
    request: bytes
    tags: tuple[str, ...]
    visibility: str | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """
    The result of a load.

    Args:
        answer: the origin's; None when another process loaded it.
        entry: as cached; None when it may not be cached.
        asked: when the origin was called, or when that turned out to be unnecessary, as `time.monotonic`.
        private: whether it is for the caller that started it only.
    """

    answer: Answer | None
    entry: Entry | None
    asked: float
    private: bool = False

    @property
    def revision(self) -> int:
        """
        The revision that it reflects; 0 when unknown.
        """
        if self.answer is not None:
            return self.answer.revision or 0
        return self.entry.revision if self.entry is not None else 0


class Loader:
    """
    Loader the answers of one RPC.

    Args:
        policy: of the RPC.
        origin: serves it.
        coherence: of the origin.
        levels: where answers are cached.
    """

    def __init__(self, policy: Policy, origin: Origin, coherence: Coherence, levels: CacheLevels) -> None:
        self._policy = policy
        self._origin = origin
        self._coherence = coherence
        self._levels = levels
        self._counts = levels.metrics.of(policy.kind)
        self._loads: dict[bytes, asyncio.Task[LoadResult]] = {}
        self._uncacheable: dict[bytes, float] = {}

    def in_progress(self, key: bytes) -> asyncio.Task[LoadResult] | None:
        """
        The load of *key* in progress, or None.
        """
        return self._loads.get(key)

    def start(
        self, asked: Asked, metadata: Metadata, minimum: int, acceptable: Callable[[Entry], bool]
    ) -> asyncio.Task[LoadResult]:
        """
        Start a load that others may join.

        Args:
            asked: what to load.
            metadata: of the caller that starts it.
            minimum: the revision that the answer must reflect.
            acceptable: whether an entry that another process loaded is acceptable.

        Returns:
            The load. It raises grpc.aio.AioRpcError as the origin answered.
        """
        key = asked.key
        load = asyncio.create_task(self._load(asked, metadata, minimum, acceptable))
        self._loads[key] = load
        load.add_done_callback(lambda done: self._loads.pop(key) if self._loads.get(key) is done else None)
        return load

    async def call(self, asked: Asked, metadata: Metadata, minimum: int, timeout: float, token: str = "") -> LoadResult:
        """
        Call the origin, and cache its answer.

        Args:
            timeout: in seconds.
            token: of the lease held for this load.

        Raises:
            grpc.aio.AioRpcError: as the origin answered.
        """
        self._counts.loads += 1
        began = time.monotonic()
        request, tags = asked.request, asked.tags
        # A lagging replica would return an answer that is already invalid.
        least = max(minimum, self._coherence.newest(tags))
        entry = None
        try:
            try:
                answer = await self._origin.call(self._policy.path, request, metadata, least, timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION or least == minimum:
                    raise
                # The origin no longer has this revision: it was restored to an older state, unknown here so far.
                answer = await self._origin.call(self._policy.path, request, metadata, minimum, timeout)
            entry = self._cache(asked, answer, token)
        finally:
            if token and entry is None:
                self._levels.metrics.background(self._levels.shared.release(asked.key, token))
        return LoadResult(answer, entry, began, not _is_shared(asked, answer))

    async def pass_through(self, request: bytes, metadata: Metadata, minimum: int, timeout: float) -> Answer:
        """
        Call the origin for one caller, and cache nothing.

        Args:
            timeout: in seconds.

        Raises:
            grpc.aio.AioRpcError: as the origin answered.
        """
        self._counts.loads += 1
        return await self._origin.call(self._policy.path, request, metadata, minimum, timeout)

    def uncacheable(self, key: bytes) -> bool:
        """
        Whether the last answer for *key* was not cacheable: then loads are not shared.
        """
        until = self._uncacheable.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._uncacheable[key]
        return False

    async def _load(
        self, asked: Asked, metadata: Metadata, minimum: int, acceptable: Callable[[Entry], bool]
    ) -> LoadResult:
        key = asked.key
        token = f"{_process}-{next(_numbers)}"
        levels = self._levels
        ends = time.monotonic() + levels.lease_wait
        pause, top = _POLL_SECONDS
        waited = False
        while True:
            held, entry = await levels.shared.lease(key, token)
            if entry is not None and acceptable(entry):
                if held:
                    levels.metrics.background(levels.shared.release(key, token))
                levels.near.put(key, entry)
                return LoadResult(None, entry, time.monotonic())
            if held is not False or time.monotonic() > ends:
                return await self.call(asked, metadata, minimum, LOAD_SECONDS, token if held else "")
            if not waited:
                self._counts.waits += 1
                waited = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, top)

    def _cache(self, asked: Asked, answer: Answer, token: str) -> Entry | None:
        """
        Cache an answer that bears its revision and was not invalidated while in transit.
        """
        levels, key, tags = self._levels, asked.key, asked.tags
        if asked.visibility != answer.visibility:
            # The origin knows of another policy than this process by now.
            return None
        ttl = levels.ttl.get(self._policy.kind, 0.0)
        if answer.absence is not None:
            ttl = min(ttl, levels.absent_ttl)
        if answer.revision is None or ttl <= 0 or len(answer.value) > levels.most_value_bytes or answer.private:
            if len(self._uncacheable) >= _MOST_UNCACHEABLE:
                self._uncacheable.clear()
            self._uncacheable[key] = time.monotonic() + _UNCACHEABLE_SECONDS
            return None
        if not self._coherence.valid(answer.revision, tags):
            return None
        now = time.time()
        entry = Entry(answer.value, answer.revision, tags, now, now + ttl, answer.took, answer.absence)
        levels.near.put(key, entry)
        levels.metrics.background(levels.shared.put(key, entry, ttl + levels.grace, token))
        return entry


def _is_shared(asked: Asked, answer: Answer) -> bool:
    """
    Whether an answer is for all callers with the same key.
    """
    return not answer.private and asked.visibility == answer.visibility
