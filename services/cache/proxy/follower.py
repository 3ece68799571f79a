"""
Follows an origin's change stream and keeps its `Coherence` up to date.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2

from modelyard.changes.v1 import changes_pb2
from services.cache.model.coherence import Coherence
from services.cache.proxy.origin import Origin
from services.chassis.background import Work, beside
from services.chassis.histograms import Histogram

HEARTBEAT = 0.5
# A stream that is silent for this long is taken for broken.
_SILENCE = 4 * HEARTBEAT
_RETRY = (0.05, 1.0)


class Follower:
    """
    Keeps *coherence* where *origin* is.

    Args:
        origin: whose changes; its WatchChanges is that of modelyard.{name}.v1.ChangeService.
        coherence: what is known of them.
        forgotten: called when everything that was kept has to go: the revisions are those of another database.

    Attributes:
        connected: whether a stream is open.
        breaks: how many streams have ended.
        changes: how many changes of resources have been told.
        lag: seconds from the commit of each revision to its arrival here, by the clocks of the two machines.
    """

    def __init__(self, origin: Origin, coherence: Coherence, forgotten: Callable[[], object]) -> None:
        self._origin = origin
        self._coherence = coherence
        self._forgotten = forgotten
        # 0 asks for everything from now on.
        self._next = 0
        self.connected = False
        self.breaks = 0
        self.changes = 0
        self.lag = Histogram()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Follow for as long as the block lasts.
        """
        async with beside(self._follow()):
            yield

    async def _follow(self) -> None:
        # Not a reason to turn calls away: without the stream reads go to the origin, slower and never wrong.
        work = Work(f"follow-{self._origin.name}", f"follow the changes of {self._origin.name}", retry=_RETRY)
        while True:
            try:
                await self._watch(work)
                wait = _RETRY[0]
            except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
                if isinstance(error, grpc.aio.AioRpcError):
                    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                        # The log ends before what was applied here: it is another database, or an older state of it.
                        self._next = 0
                    error = ConnectionError(f"{error.code().name} {error.details()}")
                # The first attempt after a stream that worked is made soon.
                wait = work.failed(error)
            self.connected = False
            self.breaks += 1
            await asyncio.sleep(wait)

    async def _watch(self, work: Work) -> None:
        """
        Read one stream until it ends, or no further than its first word when that took too long to come.

        Raises:
            grpc.aio.AioRpcError: it broke.
            TimeoutError: it fell silent.
        """
        request = changes_pb2.WatchChangesRequest(
            start_revision=self._next, heartbeat_interval=duration_pb2.Duration(nanos=int(HEARTBEAT * 1e9))
        )
        asked = time.monotonic()
        watch: Any = self._origin.channel().unary_stream(
            f"/modelyard.{self._origin.name}.v1.ChangeService/WatchChanges",
            request_serializer=changes_pb2.WatchChangesRequest.SerializeToString,
            response_deserializer=changes_pb2.WatchChangesResponse.FromString,
        )
        call = watch(request, metadata=self._origin.token.metadata())
        late: bool | None = None
        try:
            while not late:
                try:
                    async with asyncio.timeout(_SILENCE):
                        event = await call.read()
                except TimeoutError:
                    raise TimeoutError(f"nothing heard for {_SILENCE} s") from None
                if not isinstance(event, changes_pb2.WatchChangesResponse):
                    # The end of a stream that ended well: the origin is going away.
                    return
                self._take(event, asked)
                work.succeeded()
                if late is None:
                    # All that it says is current is reckoned from when it was asked for. The next one begins sooner,
                    # now that there is a connection.
                    late = time.monotonic() - asked > self._coherence.bound / 2
        finally:
            call.cancel()

    def _take(self, event: changes_pb2.WatchChangesResponse, asked: float) -> None:
        self.connected = True
        match event.WhichOneof("event"):
            case "revision":
                changes = ((change.resource, change.subtree) for change in event.revision.changes)
                self._coherence.apply(event.revision.revision, changes)
                self.changes += len(event.revision.changes)
                committed = event.revision.commit_time
                if committed.seconds:
                    self.lag.observe(max(time.time() - committed.seconds - committed.nanos / 1e9, 0.0))
            case "heartbeat":
                renewed = self._renews(event.heartbeat.epoch)
                if self._next == 0 or renewed:
                    # What was kept before this point cannot be judged.
                    self._reset(event.heartbeat.applied_revision, another=self._coherence.applied > 0)
                if event.heartbeat.HasField("current_until"):
                    # The stream began after it was asked for, so that this is not too late, on our own clock.
                    current = event.heartbeat.current_until
                    known = asked + current.seconds + current.nanos / 1e9
                    self._coherence.heard(event.heartbeat.applied_revision, known)
            case "discontinuity":
                head = event.discontinuity.head_revision
                renewed = self._renews(event.discontinuity.epoch)
                self._reset(head, another=renewed or head < self._coherence.applied)
        self._next = self._coherence.applied + 1

    def _renews(self, epoch: str) -> bool:
        """
        Note the epoch that a stream tells, and say whether it told another one before: then its revisions are none of
        those that are known here, however their numbers go on. Streams of an earlier release tell none.
        """
        before, told = self._coherence.epoch, epoch.encode()
        if not told or told == before:
            return False
        # It is a part of every key: what was kept, here and in the shared level, is found no more.
        self._coherence.epoch = told
        return bool(before)

    def _reset(self, head: int, *, another: bool) -> None:
        """
        What was kept before *head* cannot be judged. Of another database, or of an older state of it, nothing that was
        kept can; otherwise the floor judges, and memory may keep what belongs to others.
        """
        self._coherence.reset(head)
        if another:
            self._forgotten()
