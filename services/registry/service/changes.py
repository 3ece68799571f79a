"""
ChangeService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.changes.v1 import changes_pb2 as pb
from modelyard.registry.v1.changes_pb2_grpc import ChangeServiceServicer
from services.chassis.context import Context
from services.registry.model.checks import Checks
from services.registry.model.names import is_resource_prefix
from services.registry.service.rendering import from_event
from services.registry.store.feed import ChangeFeed

_USUAL_HEARTBEAT = 5.0
_LEAST_HEARTBEAT, _MOST_HEARTBEAT = 0.1, 60.0


class ChangeService(ChangeServiceServicer):
    """
    The servicer of modelyard.registry.v1.ChangeService.
    """

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    async def WatchChanges(
        self, request: pb.WatchChangesRequest, context: Context
    ) -> AsyncIterator[pb.WatchChangesResponse]:
        checks = Checks()
        start = checks.count("start_revision", request.start_revision)
        if request.resource_prefix and not is_resource_prefix(request.resource_prefix):
            checks.add(
                "resource_prefix", "must be the name of a resource or of a collection, such as namespaces/default"
            )
        heartbeat = _heartbeat(checks, request)
        checks.raise_if_any()
        async with aclosing(self._feed.watch(start, request.resource_prefix, heartbeat)) as events:
            async for event in events:
                yield from_event(event)


def _heartbeat(checks: Checks, request: pb.WatchChangesRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return _USUAL_HEARTBEAT
    seconds = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
    if not _LEAST_HEARTBEAT <= seconds <= _MOST_HEARTBEAT:
        checks.add("heartbeat_interval", "must be from 100 ms to 60 s")
    return seconds
