"""
AuditService.
"""

from __future__ import annotations

from modelyard.registry.v1 import audit_pb2 as pb
from modelyard.registry.v1.audit_pb2_grpc import AuditServiceServicer
from services.chassis.checks import Checks
from services.chassis.deadlines import remaining
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import reflect
from services.registry.model.audit import AuditFilter
from services.registry.model.names import is_resource_prefix
from services.registry.service.parsing import to_time
from services.registry.service.rendering import from_audit_entry
from services.registry.service.visibility import Visibility
from services.registry.store.audit import AuditStore

_MOST_TEXT = 256


class AuditService(AuditServiceServicer):
    """
    The servicer of modelyard.registry.v1.AuditService.
    """

    def __init__(self, audit: AuditStore, visibility: Visibility) -> None:
        self._audit = audit
        self._visibility = visibility

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        checks = Checks()
        if request.resource_prefix and not is_resource_prefix(request.resource_prefix):
            checks.add("resource_prefix", "must be the name of a resource or of a collection")
        start = to_time(checks, "start_time", request.start_time) if request.HasField("start_time") else None
        end = to_time(checks, "end_time", request.end_time) if request.HasField("end_time") else None
        if start is not None and end is not None and start >= end:
            checks.add("start_time", "must be before end_time")
        wanted = AuditFilter(
            request.resource_prefix,
            checks.text("actor", request.actor, _MOST_TEXT),
            checks.text("action", request.action, _MOST_TEXT),
            start,
            end,
        )
        parts = (request.resource_prefix, request.actor, request.action, str(start), str(end))
        query = Query("ListAuditEntries", parts, (int, int))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        readable = self._visibility.readable(context, "audit.read")
        since = self._visibility.since(readable)
        found = await reflect(context, self._audit.list_page(wanted, page, readable, since, remaining()))
        return pb.ListAuditEntriesResponse(entries=map(from_audit_entry, found.items), next_page_token=found.token)
