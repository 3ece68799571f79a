"""
NamespaceService.
"""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from modelyard.registry.v1 import namespaces_pb2 as pb
from modelyard.registry.v1.namespaces_pb2_grpc import NamespaceServiceServicer
from services.chassis.checks import Checks
from services.chassis.interceptors import identity
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, nothing, reflect
from services.registry.model.field_masks import check_mask, fields
from services.registry.model.names import NAMESPACE_ID, NamespaceName
from services.registry.model.namespaces import MUTABLE, NamespaceUpdate
from services.registry.model.policies import owned_by
from services.registry.service.parsing import to_namespace_draft
from services.registry.service.rendering import from_namespace
from services.registry.service.visibility import Visibility
from services.registry.store.namespaces import NamespaceStore


class NamespaceService(NamespaceServiceServicer):
    """
    The servicer of modelyard.registry.v1.NamespaceService.
    """

    def __init__(self, namespaces: NamespaceStore, mutations: Mutations, visibility: Visibility) -> None:
        self._visibility = visibility
        self._namespaces = namespaces
        self._mutations = mutations

    async def CreateNamespace(self, request: pb.CreateNamespaceRequest, context: Context) -> pb.Namespace:
        checks = Checks()
        name = NamespaceName(checks.matches("namespace_id", request.namespace_id, NAMESPACE_ID))
        draft = to_namespace_draft(request.namespace)
        draft.check(checks, "namespace")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        creator = identity()
        policy = owned_by(f"user:{creator.subject}") if creator is not None and creator.subject else None
        return await self._mutations.do(
            context,
            request,
            pb.Namespace,
            lambda tx: self._namespaces.create(tx, name, draft, policy),
            from_namespace,
            touches=None,
        )

    async def UpdateNamespace(self, request: pb.UpdateNamespaceRequest, context: Context) -> pb.Namespace:
        checks = Checks()
        name = checks.name(NamespaceName, "namespace.name", request.namespace.name)
        paths = check_mask(checks, request.update_mask.paths, MUTABLE)
        draft = to_namespace_draft(request.namespace)
        draft.check(checks, "namespace", fields(paths))
        checks.request_id(request.request_id)
        checks.raise_if_any()
        update = NamespaceUpdate(name, draft, paths, request.namespace.etag)
        return await self._mutations.do(
            context, request, pb.Namespace, lambda tx: self._namespaces.update(tx, update), from_namespace, touches=None
        )

    async def DeleteNamespace(self, request: pb.DeleteNamespaceRequest, context: Context) -> Empty:
        checks = Checks()
        name = checks.name(NamespaceName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            Empty,
            lambda tx: self._namespaces.delete(tx, name, request.etag),
            nothing,
            touches=None,
        )

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Context) -> pb.Namespace:
        name = NamespaceName.parse(request.name)
        return from_namespace((await reflect(context, self._namespaces.get(name))).value)

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:
        checks = Checks()
        page = Page.check(checks, Query("ListNamespaces", (), (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        readable = self._visibility.readable(context, "namespaces.read")
        found = await reflect(context, self._namespaces.list_page(page, readable))
        return pb.ListNamespacesResponse(namespaces=map(from_namespace, found.items), next_page_token=found.token)
