"""
NamespaceService.
"""

from __future__ import annotations

from modelyard.registry.v1 import namespaces_pb2 as pb
from modelyard.registry.v1.namespaces_pb2_grpc import NamespaceServiceServicer
from services.chassis.context import Context
from services.registry.model.checks import Checks
from services.registry.model.names import NAMESPACE_ID, NamespaceName
from services.registry.model.pages import Page, Query
from services.registry.service.calls import Mutations, reflect
from services.registry.service.parsing import to_namespace_draft
from services.registry.service.rendering import from_namespace
from services.registry.store.namespaces import NamespaceStore


class NamespaceService(NamespaceServiceServicer):
    """
    The servicer of modelyard.registry.v1.NamespaceService.
    """

    def __init__(self, namespaces: NamespaceStore, mutations: Mutations) -> None:
        self._namespaces = namespaces
        self._mutations = mutations

    async def CreateNamespace(self, request: pb.CreateNamespaceRequest, context: Context) -> pb.Namespace:
        checks = Checks()
        name = NamespaceName(checks.matches("namespace_id", request.namespace_id, NAMESPACE_ID))
        draft = to_namespace_draft(request.namespace)
        draft.check(checks, "namespace")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context, request, pb.Namespace, lambda tx: self._namespaces.create(tx, name, draft), from_namespace
        )

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Context) -> pb.Namespace:
        name = NamespaceName.parse(request.name)
        return from_namespace((await reflect(context, self._namespaces.get(name))).value)

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:
        checks = Checks()
        page = Page.check(checks, Query("ListNamespaces", (), (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._namespaces.list_page(page))
        return pb.ListNamespacesResponse(namespaces=map(from_namespace, found.items), next_page_token=found.token)
