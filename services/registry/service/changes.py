"""
ChangeService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.changes.v1 import changes_pb2 as pb
from modelyard.registry.v1.changes_pb2_grpc import ChangeServiceServicer
from services.chassis.access.policies import REGISTRY
from services.chassis.serving.context import Context
from services.ledger.service.changes import watch_changes
from services.ledger.store.change_feed import ChangeFeed
from services.registry.model.names import is_resource_prefix
from services.registry.service.visibility import Visibility


class ChangeService(ChangeServiceServicer):
    """
    The servicer of modelyard.registry.v1.ChangeService.
    """

    def __init__(self, feed: ChangeFeed, visibility: Visibility) -> None:
        self._feed = feed
        self._visibility = visibility

    async def WatchChanges(
        self, request: pb.WatchChangesRequest, context: Context
    ) -> AsyncIterator[pb.WatchChangesResponse]:
        async with aclosing(watch_changes(self._feed, request, is_resource_prefix, "namespaces/default")) as events:
            async for event in events:
                if event.WhichOneof("event") == "revision":
                    # The stream may be ahead of the policies: a revocation would not hold for what followed it.
                    await self._visibility.reach(event.revision.revision)
                if (visible := self._visible(event)) is not None:
                    yield visible

    def _visible(self, event: pb.WatchChangesResponse) -> pb.WatchChangesResponse | None:
        """
        The event without the changes of namespaces that the caller may not read by now; None when nothing is left.
        """
        if event.WhichOneof("event") != "revision":
            return event
        number = event.revision.revision
        changes = [change for change in event.revision.changes if self._sees(change.resource, number)]
        if len(changes) == len(event.revision.changes):
            return event
        if not changes:
            return None
        seen = pb.Revision(revision=number, commit_time=event.revision.commit_time, changes=changes)
        return pb.WatchChangesResponse(revision=seen)

    def _sees(self, resource: str, revision: int) -> bool:
        namespace = resource.split("/", 2)[1] if "/" in resource else REGISTRY
        return self._visibility.sees(namespace, "changes.read", revision)
