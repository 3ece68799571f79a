"""
Follows an origin's change stream and applies it to the origin's `Coherence`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import grpc

from modelyard.changes.v1 import changes_pb2
from services.cache.model.coherence import Coherence
from services.cache.read_through.change_stream import ChangeStream
from services.cache.read_through.origin import Origin
from services.chassis.observability.histograms import Histogram
from services.chassis.serving.background import Work, begin, beside, end

HEARTBEAT = 0.5
_RETRY = (0.05, 1.0)
# Seconds until a second stream is opened beside one that is late or silent: initial and maximum backoff.
_BESIDE = (1.0, 10.0)
_MOST_STREAMS = 2


class Follower:
    """
    Keeps *coherence* up to date with *origin*.

    The freshness that a stream reports is counted from the moment of the call. So a stream that started late, because
    the origin is slow, keeps entries valid for a shorter time than possible; its revisions are still correct. It stays
    open, a second stream is opened beside it, and the one that was less late is kept. The same happens when a stream
    falls silent.

    Args:
        origin: its WatchChanges is that of modelyard.{name}.v1.ChangeService.
        coherence: where the changes are applied.
        on_reset: called when all cached entries are invalid: the revisions are those of another database.

    Attributes:
        breaks: streams that ended, except for those closed as redundant.
        changes: resource changes received.
        lag: seconds from the commit of each revision to its arrival here, by the clocks of the two machines.
    """

    def __init__(self, origin: Origin, coherence: Coherence, on_reset: Callable[[], object]) -> None:
        self._origin = origin
        self._coherence = coherence
        self._on_reset = on_reset
        # 0 requests the changes from now on.
        self._next = 0
        # Several heartbeats per staleness bound: one lost heartbeat must not exceed it.
        self._heartbeat = min(HEARTBEAT, coherence.bound / 4)
        self._work = Work(f"follow-{origin.name}", f"follow the changes of {origin.name}", retry=_RETRY)
        self._streams: list[ChangeStream] = []
        self._current: ChangeStream | None = None
        # Set when a stream has begun or ended.
        self._news = asyncio.Event()
        self.breaks = 0
        self.changes = 0
        self.lag = Histogram()

    @property
    def connected(self) -> bool:
        """
        Whether a stream is open.
        """
        return any(stream.late < float("inf") and not stream.reading.done() for stream in self._streams)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Follow for as long as the block lasts.
        """
        async with beside(self._follow()):
            yield

    async def _follow(self) -> None:
        # Not part of readiness: without the stream, reads go to the origin, which is slower and still correct.
        due, pause = 0.0, _BESIDE[0]
        try:
            while True:
                self._news.clear()
                wait = self._heartbeat / 2
                if (retry := self._drop_ended()) is not None and not self._streams:
                    due = time.monotonic() + retry
                if self._settle():
                    pause = _BESIDE[0]
                elif len(self._streams) < _MOST_STREAMS:
                    now = time.monotonic()
                    if now >= due:
                        self._open()
                        due, pause = now + pause, min(2 * pause, _BESIDE[1])
                    wait = min(wait, due - now)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()
        finally:
            for stream in self._streams:
                await end(stream.reading)

    def _open(self) -> None:
        stream = ChangeStream(self._origin, self._next, self._heartbeat)
        self._streams.append(stream)
        stream.reading = begin(self._read(stream))
        stream.reading.add_done_callback(lambda _: self._news.set())

    def _settle(self) -> bool:
        """
        Keep the newest stream that is in time, or else the better one of those that have started.

        Returns:
            Whether a stream is in time.
        """
        good = [each for each in self._streams if each.late <= self._coherence.bound / 2 and not each.silent]
        if good:
            self._keep_only(good[-1])
        elif len(self._streams) > 1 and all(each.late < float("inf") for each in self._streams):
            self._keep_only(min(self._streams, key=lambda each: (each.silent, each.late)))
        return bool(good)

    def _keep_only(self, stream: ChangeStream) -> None:
        for other in self._streams:
            if other is not stream:
                other.reading.cancel()
        self._streams = [stream]

    def _drop_ended(self) -> float | None:
        """
        Remove the streams that have ended.

        Returns:
            Seconds to wait before the next one is opened; None when none has ended.
        """
        wait = None
        for stream in [each for each in self._streams if each.reading.done()]:
            self._streams.remove(stream)
            self.breaks += 1
            error = None if stream.reading.cancelled() else stream.reading.result()
            # The first attempt after a stream that worked is made without backoff.
            wait = _RETRY[0] if error is None else self._failed(error)
        return wait

    def _failed(self, error: Exception) -> float:
        if isinstance(error, grpc.aio.AioRpcError):
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                # The log ends before the last applied revision: this is another database, or an older state of it, and
                # no stream can continue from there.
                self._next = 0
                for stream in self._streams:
                    stream.reading.cancel()
                self._streams.clear()
            error = ConnectionError(f"{error.code().name} {error.details()}")
        return self._work.failed(error)

    async def _read(self, stream: ChangeStream) -> Exception | None:
        """
        Apply the messages of a stream until it ends; return the error that ended it, or None.
        """
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    if self._current is not stream:
                        self._current = stream
                        self._news.set()
                    self._apply(event, stream.asked)
                    self._work.succeeded()
        except Exception as error:  # noqa: BLE001 - any error is followed by another stream
            return error
        return None

    def _apply(self, event: changes_pb2.WatchChangesResponse, asked: float) -> None:
        match event.WhichOneof("event"):
            case "revision":
                known = event.revision.revision <= self._coherence.applied
                changes = ((change.resource, change.subtree) for change in event.revision.changes)
                self._coherence.apply(event.revision.revision, changes)
                # A revision that another stream has delivered is not counted again.
                if not known:
                    self._count(event.revision)
            case "heartbeat":
                renewed = self._renews(event.heartbeat.epoch)
                if self._next == 0 or renewed:
                    # Entries cached before this point cannot be validated.
                    self._reset(event.heartbeat.applied_revision, another=self._coherence.applied > 0)
                if event.heartbeat.HasField("current_until"):
                    # By the local clock, and never too late: the stream started after the call was made.
                    current = event.heartbeat.current_until
                    known_at = asked + current.seconds + current.nanos / 1e9
                    self._coherence.heard(event.heartbeat.applied_revision, known_at)
            case "discontinuity":
                head = event.discontinuity.head_revision
                renewed = self._renews(event.discontinuity.epoch)
                self._reset(head, another=renewed or head < self._coherence.applied)
        self._next = self._coherence.applied + 1

    def _count(self, revision: changes_pb2.Revision) -> None:
        self.changes += len(revision.changes)
        committed = revision.commit_time
        if committed.seconds:
            self.lag.observe(max(time.time() - committed.seconds - committed.nanos / 1e9, 0.0))

    def _renews(self, epoch: str) -> bool:
        """
        Record the epoch of a stream, and return whether it replaced another one: revisions of different epochs are
        unrelated, even where their numbers continue. Streams of earlier releases have no epoch.
        """
        before, received = self._coherence.epoch, epoch.encode()
        if not received or received == before:
            return False
        # The epoch is part of every key: entries of the previous one, in L1 and L2, are no longer found.
        self._coherence.epoch = received
        return bool(before)

    def _reset(self, head: int, *, another: bool) -> None:
        """
        Invalidate what was cached before *head*. With another database, or an older state of it, all of L1 is cleared;
        otherwise the floor invalidates the entries of this origin, and L1 keeps those of the others.
        """
        # Another stream may be ahead: what it delivered after *head* is lost with the reset, so it is closed.
        if self._current is not None:
            self._keep_only(self._current)
        self._coherence.reset(head)
        if another:
            self._on_reset()
