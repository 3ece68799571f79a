"""
Follows the invalidation logs of the key-value cache's namespaces, for L1 and for the callers of Watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.cache.model.coherence import Coherence
from services.cache.model.namespaces import Namespace
from services.cache.model.values import Invalidation, Log
from services.cache.store.values import ValueStore
from services.chassis.serving.background import Work, begin, end

_RETRY = (0.2, 2.0)


class InvalidationFeed:
    """
    The invalidation log of one namespace, read once for the whole process.

    Args:
        namespace: whose log.
        store: where it is.
        coherence: where the changes are applied.

    Attributes:
        coherence: as given.
        generation: grows when all cached entries become invalid. (The floor alone is not enough: entries may carry a
            sequence of a lost Valkey whose clock was ahead.)
    """

    def __init__(self, namespace: Namespace, store: ValueStore, coherence: Coherence) -> None:
        self.coherence = coherence
        self.generation = 0
        self._namespace = namespace
        self._store = store
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._epoch: int | None = None
        self._after = 0
        # Reads of the log in progress for watchers, by position; reset with every change.
        self._readings: dict[int, asyncio.Task[Log]] = {}

    def start(self) -> None:
        """
        Start following, unless already started.
        """
        if self._task is None:
            self._task = begin(self._follow())

    async def close(self) -> None:
        """
        Stop following.
        """
        await end(self._task)

    async def watch(
        self, start: int, heartbeat: float, ending: asyncio.Event
    ) -> AsyncIterator[Invalidation | tuple[str, int]]:
        """
        Stream the invalidations from a sequence on.

        Args:
            start: the first sequence; 0 for the invalidations from now on.
            heartbeat: seconds between progress messages.
            ending: set to end the stream.

        Yields:
            Invalidations in order; ("applied", sequence) when nothing is missing up to it; ("discontinuity", sequence)
            when the log does not reach back.

        Raises:
            Unavailable: Valkey does not answer.
        """
        self.start()
        epoch: int | None = None
        after = start - 1 if start else None
        while not ending.is_set():
            changed = self._changed
            log = await self._log(after or 0)
            if after is None:
                after = log.head
                log = Log(log.epoch, log.head, log.kept, (), complete=True)
            else:
                after = _begun(log, epoch, after)
                if _broken(log, epoch, after):
                    yield "discontinuity", log.head
                    epoch, after = log.epoch, log.head
                    continue
            epoch = log.epoch
            for event in log.events:
                # A log that was started anew begins with an empty entry.
                if event.keys or event.tags:
                    yield event
                after = event.sequence
            if log.complete:
                after = max(after, log.head)
                yield "applied", after
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), heartbeat)

    async def _log(self, after: int) -> Log:
        """
        The log after a sequence, read once for all waiting watchers: a change wakes all of them.
        """
        readings = self._readings
        reading = readings.get(after)
        if reading is None:
            reading = readings[after] = begin(self._store.log(self._namespace, after))

            def done(ended: asyncio.Task[Log]) -> None:
                readings.pop(after, None)
                # All waiters may have been cancelled: the exception is retrieved here, or asyncio logs it.
                _ = ended.cancelled() or ended.exception()

            reading.add_done_callback(done)
        return await asyncio.shield(reading)

    async def _follow(self) -> None:
        # Not part of readiness: while the feed is behind, L1 is bypassed.
        work = Work(f"follow-namespace-{self._namespace.id}", retry=_RETRY)
        await work.forever(self._read)

    async def _read(self) -> None:
        """
        Apply new log entries, and wait for more.

        Raises:
            Unavailable, ResourceExhausted: Valkey does not answer.
        """
        asked = time.monotonic()
        log = await self._store.log(self._namespace, self._after)
        self._after = _begun(log, self._epoch, self._after)
        if self._epoch is None or _broken(log, self._epoch, self._after):
            self.coherence.reset(log.head)
            self.generation += 1
            self._epoch, self._after = log.epoch, log.head
            self._wake()
            return
        self._epoch = log.epoch
        for event in log.events:
            self.coherence.apply(event.sequence, [(name, False) for name in names(event.keys, event.tags)])
            self._after = event.sequence
        if log.complete:
            self._after = max(self._after, log.head)
            self.coherence.heard(self._after, asked)
        if log.events:
            self._wake()
        if log.complete:
            await self._store.wait(self._namespace, self._after)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        # Reads in progress may have started before this change.
        self._readings = {}


def names(keys: tuple[str, ...], tags: tuple[str, ...]) -> tuple[str, ...]:
    """
    Keys and tags as the names that `Coherence` compares.
    """
    return (*("k:" + key for key in keys), *("t:" + tag for tag in tags))


def _begun(log: Log, epoch: int | None, after: int) -> int:
    """
    Where to continue in a log that was empty until now: at its beginning.
    """
    return max(after, log.kept) if epoch == 0 and log.kept == log.epoch else after


def _broken(log: Log, epoch: int | None, after: int) -> bool:
    """
    Whether entries after *after* are missing: the log was lost, trimmed or replaced.
    """
    another = bool(epoch) and (log.epoch != epoch or log.head < after)
    return after < log.kept or another or (not log.epoch and after > 0)
