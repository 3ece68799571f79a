"""
ChangeService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.cdn.v1.changes_pb2_grpc import ChangeServiceServicer
from modelyard.changes.v1 import changes_pb2 as pb
from services.cdn.model import is_prefix
from services.cdn.service.rights import Rights
from services.chassis.serving.context import Context
from services.ledger.service.changes import watch_changes
from services.ledger.store.change_feed import ChangeFeed


class ChangeService(ChangeServiceServicer):
    """
    The servicer of modelyard.cdn.v1.ChangeService.

    Args:
        feed: of changes.
        rights: who may see all assets.
    """

    def __init__(self, feed: ChangeFeed, rights: Rights) -> None:
        self._feed, self._rights = feed, rights

    async def WatchChanges(
        self, request: pb.WatchChangesRequest, context: Context
    ) -> AsyncIterator[pb.WatchChangesResponse]:
        self._rights.check_everything()
        async with aclosing(watch_changes(self._feed, request, is_prefix, "static/logo.png")) as events:
            async for event in events:
                # It may have been revoked since.
                self._rights.check_everything()
                yield event
