"""
ChangeService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.changes.v1 import changes_pb2 as pb
from modelyard.registry.v1.changes_pb2_grpc import ChangeServiceServicer
from services.chassis.serving.context import Context
from services.ledger.service.changes import watch_changes
from services.ledger.store.change_feed import ChangeFeed
from services.registry.model.names import is_resource_prefix


class ChangeService(ChangeServiceServicer):
    """
    The servicer of modelyard.registry.v1.ChangeService.
    """

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    async def WatchChanges(
        self, request: pb.WatchChangesRequest, context: Context
    ) -> AsyncIterator[pb.WatchChangesResponse]:
        async with aclosing(watch_changes(self._feed, request, is_resource_prefix, "namespaces/default")) as events:
            async for event in events:
                yield event
