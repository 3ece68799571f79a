"""
WatchChanges: the change stream as messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.changes.v1 import changes_pb2 as pb
from services.chassis.checks import Checks
from services.ledger.model.changes import Discontinuity, Event, Heartbeat
from services.ledger.store.change_feed import ChangeFeed

_USUAL_HEARTBEAT = 5.0
_LEAST_HEARTBEAT, _MOST_HEARTBEAT = 0.1, 60.0


async def watch_changes(
    feed: ChangeFeed, request: pb.WatchChangesRequest, is_prefix: Callable[[str], bool], example: str
) -> AsyncGenerator[pb.WatchChangesResponse, None]:
    """
    Stream the events for one watcher.

    Args:
        is_prefix: whether a text is the name of a resource or of a collection.
        example: of one, for the error.

    Raises:
        InvalidArgument: the request is malformed.
    """
    checks = Checks()
    start = checks.count("start_revision", request.start_revision)
    if request.resource_prefix and not is_prefix(request.resource_prefix):
        checks.add("resource_prefix", f"must be the name of a resource or of a collection, such as {example}")
    heartbeat = heartbeat_of(checks, request)
    checks.raise_if_any()
    async with aclosing(feed.watch(start, request.resource_prefix, heartbeat)) as events:
        async for event in events:
            yield from_event(event)


class _Interval(Protocol):
    @property
    def heartbeat_interval(self) -> Duration: ...

    def HasField(self, name: Any, /) -> bool: ...


def heartbeat_of(checks: Checks, request: _Interval) -> float:
    """
    The seconds between heartbeats that a watcher asks for.
    """
    if not request.HasField("heartbeat_interval"):
        return _USUAL_HEARTBEAT
    seconds = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
    if not _LEAST_HEARTBEAT <= seconds <= _MOST_HEARTBEAT:
        checks.add("heartbeat_interval", "must be from 100 ms to 60 s")
    return seconds


def from_event(event: Event) -> pb.WatchChangesResponse:
    """
    An event as a message.
    """
    if isinstance(event, Heartbeat):
        heartbeat = pb.Heartbeat(applied_revision=event.applied, epoch=event.epoch)
        if event.current is not None:
            heartbeat.current_until.FromNanoseconds(int(event.current * 1e9))
        return pb.WatchChangesResponse(heartbeat=heartbeat)
    if isinstance(event, Discontinuity):
        return pb.WatchChangesResponse(
            discontinuity=pb.Discontinuity(oldest_revision=event.oldest, head_revision=event.head, epoch=event.epoch)
        )
    commit_time = Timestamp()
    commit_time.FromDatetime(event.commit_time)
    changes = [
        pb.Change(resource=each.resource, kind=pb.Change.Kind.ValueType(each.kind), subtree=each.subtree)
        for each in event.changes
    ]
    return pb.WatchChangesResponse(
        revision=pb.Revision(revision=event.number, commit_time=commit_time, changes=changes)
    )
