"""
How an answer that is not kept comes in: once for each key in a process, and once in the fleet.
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

# A load goes on for those who wait when the one who began it has gone, but not for ever.
LOAD_SECONDS = 20.0
# For so long a key whose answer could not be kept is not loaded for others.
_PASSING_SECONDS = 60.0
_MOST_PASSING = 10_000
# Between two looks for what another process loads: first, and at the most.
_LOOKS = (0.001, 0.02)

_runs = itertools.count()
_process = f"{os.getpid()}-{os.urandom(6).hex()}"


@dataclass(frozen=True, slots=True)
class CacheLevels:
    """
    Where answers are kept, and for how long.

    Args:
        near: the level in this process.
        shared: the level in Valkey.
        ttl: seconds that an answer is kept, by class.
        absent_ttl: seconds that an absence is kept.
        grace: seconds beyond its time in which an answer may be served when the origin is away.
        most_value_bytes: larger answers are not kept.
        lease_wait: seconds to wait for what another process loads.
        metrics: what happened.
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
class LoadResult:
    """
    What a load brought.

    Args:
        answer: the origin's; None when another process had loaded it.
        entry: as it is kept; None when it may not be.
        asked: when the origin was asked, or when that was found not to be needed, as `time.monotonic` has it.
    """

    answer: Answer | None
    entry: Entry | None
    asked: float

    @property
    def revision(self) -> int:
        """
        The one that it reflects; 0 when nobody says.
        """
        if self.answer is not None:
            return self.answer.revision or 0
        return self.entry.revision if self.entry is not None else 0

    @property
    def private(self) -> bool:
        """
        Whether it is for one caller alone.
        """
        return self.answer is not None and self.answer.private


class Loader:
    """
    Loader the answers of one RPC.

    Args:
        policy: of the RPC.
        origin: who answers it.
        coherence: what is known of the origin's changes.
        levels: where answers are kept.
    """

    def __init__(self, policy: Policy, origin: Origin, coherence: Coherence, levels: CacheLevels) -> None:
        self._policy = policy
        self._origin = origin
        self._coherence = coherence
        self._levels = levels
        self._counts = levels.metrics.of(policy.kind)
        self._loads: dict[bytes, asyncio.Task[LoadResult]] = {}
        self._passing: dict[bytes, float] = {}

    def under_way(self, key: bytes) -> asyncio.Task[LoadResult] | None:
        """
        The load of *key* that can be waited for.
        """
        return self._loads.get(key)

    def start(
        self, key: bytes, request: bytes, metadata: Metadata, minimum: int, good: Callable[[Entry], bool]
    ) -> asyncio.Task[LoadResult]:
        """
        Begin a load that others may wait for.

        Args:
            key: of the entry.
            request: serialised.
            metadata: of the caller who needs it.
            minimum: the revision that it has to reflect.
            good: whether what another process has loaded will do.

        Returns:
            The load. It raises grpc.aio.AioRpcError as the origin answered.
        """
        load = asyncio.create_task(self._load(key, request, metadata, minimum, good))
        self._loads[key] = load
        load.add_done_callback(lambda done: self._loads.pop(key) if self._loads.get(key) is done else None)
        return load

    async def call(
        self, key: bytes, request: bytes, metadata: Metadata, minimum: int, timeout: float, token: str = ""
    ) -> LoadResult:
        """
        Ask the origin, and keep what it says.

        Args:
            timeout: in seconds.
            token: of the lease that this is done under.

        Raises:
            grpc.aio.AioRpcError: as the origin answered.
        """
        self._counts.loads += 1
        asked = time.monotonic()
        tags = self._policy.tags(request)
        # A replica that is behind what is known here would give an answer that is invalid already.
        least = max(minimum, self._coherence.newest(tags))
        entry = None
        try:
            try:
                answer = await self._origin.call(self._policy.path, request, metadata, least, timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION or least == minimum:
                    raise
                # It has no such revision any more: it was set back, and this process has yet to hear of it.
                answer = await self._origin.call(self._policy.path, request, metadata, minimum, timeout)
            entry = self._keep(key, tags, answer, token)
        finally:
            if token and entry is None:
                self._levels.metrics.background(self._levels.shared.release(key, token))
        return LoadResult(answer, entry, asked)

    def passes(self, key: bytes) -> bool:
        """
        Whether the answer of *key* could not be kept lately: then everybody asks for themselves.
        """
        until = self._passing.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._passing[key]
        return False

    async def _load(
        self, key: bytes, request: bytes, metadata: Metadata, minimum: int, good: Callable[[Entry], bool]
    ) -> LoadResult:
        token = f"{_process}-{next(_runs)}"
        levels = self._levels
        ends = time.monotonic() + levels.lease_wait
        pause, top = _LOOKS
        waited = False
        while True:
            held, entry = await levels.shared.lease(key, token)
            if entry is not None and good(entry):
                if held:
                    levels.metrics.background(levels.shared.release(key, token))
                levels.near.put(key, entry)
                return LoadResult(None, entry, time.monotonic())
            if held is not False or time.monotonic() > ends:
                return await self.call(key, request, metadata, minimum, LOAD_SECONDS, token if held else "")
            if not waited:
                self._counts.waits += 1
                waited = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, top)

    def _keep(self, key: bytes, tags: tuple[str, ...], answer: Answer, token: str) -> Entry | None:
        """
        Keep an answer that says what it reflects and that nothing has made stale on its way.
        """
        levels = self._levels
        ttl = levels.ttl.get(self._policy.kind, 0.0)
        if answer.absence is not None:
            ttl = min(ttl, levels.absent_ttl)
        if answer.revision is None or ttl <= 0 or len(answer.value) > levels.most_value_bytes or answer.private:
            if len(self._passing) >= _MOST_PASSING:
                self._passing.clear()
            self._passing[key] = time.monotonic() + _PASSING_SECONDS
            return None
        if not self._coherence.valid(answer.revision, tags):
            return None
        now = time.time()
        entry = Entry(answer.value, answer.revision, tags, now, now + ttl, answer.took, answer.absence)
        levels.near.put(key, entry)
        levels.metrics.background(levels.shared.put(key, entry, ttl + levels.grace, token))
        return entry
