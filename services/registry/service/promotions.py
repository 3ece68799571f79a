"""
PromotionService.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from google.protobuf.message import Message

from modelyard.registry.v1 import promotions_pb2 as pb
from modelyard.registry.v1.promotions_pb2_grpc import PromotionServiceServicer
from services.chassis.checks import Checks
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.ledger.store.transactions import Transaction
from services.registry.model.aliases import Move
from services.registry.model.names import ALIAS_ID, ModelName, NamespaceName
from services.registry.model.promotions import MOST_COMMENT, Promotion, PromotionName, PromotionRequest, PromotionState
from services.registry.service.rendering import from_promotion
from services.registry.store.promotions import PromotionFilter, PromotionStore

_STATES = {pb.Promotion.State.Value(f"STATE_{state}"): state for state in PromotionState}
_ALL_MODELS = "/models/-"


class _Review(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def request_id(self) -> str: ...


class PromotionService(PromotionServiceServicer):
    """
    The servicer of modelyard.registry.v1.PromotionService.
    """

    def __init__(self, promotions: PromotionStore, mutations: Mutations) -> None:
        self._promotions = promotions
        self._mutations = mutations

    async def CreatePromotion(self, request: pb.CreatePromotionRequest, context: Context) -> pb.Promotion:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        asked = request.promotion
        move = Move.check(checks, "promotion", parent, asked.alias_id, asked.version, "", absent=False)
        comment = checks.text("promotion.comment", asked.comment, MOST_COMMENT)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        wanted = PromotionRequest(parent, move.alias, move.version, comment)
        return await self._mutations.do(
            context,
            request,
            pb.Promotion,
            lambda tx: self._promotions.create(tx, wanted),
            from_promotion,
            touches=[parent],
            dry=request.validate_only,
        )

    async def ApprovePromotion(self, request: pb.ApprovePromotionRequest, context: Context) -> pb.Promotion:
        checks = Checks()
        comment = checks.text("comment", request.comment, MOST_COMMENT)
        return await self._review(
            checks,
            request,
            context,
            lambda tx, name: self._promotions.approve(tx, name, comment, request.etag),
            dry=request.validate_only,
        )

    async def RejectPromotion(self, request: pb.RejectPromotionRequest, context: Context) -> pb.Promotion:
        checks = Checks()
        comment = checks.text("comment", request.comment, MOST_COMMENT)
        return await self._review(
            checks, request, context, lambda tx, name: self._promotions.reject(tx, name, comment, request.etag)
        )

    async def CancelPromotion(self, request: pb.CancelPromotionRequest, context: Context) -> pb.Promotion:
        return await self._review(
            Checks(), request, context, lambda tx, name: self._promotions.cancel(tx, name, request.etag)
        )

    async def GetPromotion(self, request: pb.GetPromotionRequest, context: Context) -> pb.Promotion:
        name = PromotionName.parse(request.name)
        return from_promotion((await reflect(context, self._promotions.get(name))).value)

    async def ListPromotions(self, request: pb.ListPromotionsRequest, context: Context) -> pb.ListPromotionsResponse:
        checks = Checks()
        namespace, model, missing = _parent(checks, request.parent)
        if request.alias_id:
            checks.matches("alias_id", request.alias_id, ALIAS_ID)
        if request.state and request.state not in _STATES:
            checks.add("state", "is not a state of a promotion")
        state = _STATES.get(request.state)
        query = Query("ListPromotions", (request.parent, str(request.state), request.alias_id), (int,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        wanted = PromotionFilter(namespace, model, str(state) if state is not None else "", request.alias_id)
        found = await reflect(context, self._promotions.list_page(wanted, page, missing))
        return pb.ListPromotionsResponse(promotions=map(from_promotion, found.items), next_page_token=found.token)

    async def _review(
        self,
        checks: Checks,
        request: _Review,
        context: Context,
        work: Callable[[Transaction, PromotionName], Awaitable[Promotion]],
        *,
        dry: bool = False,
    ) -> pb.Promotion:
        name = checks.name(PromotionName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        assert isinstance(request, Message)  # noqa: S101 - for the type checker: requests of this service are messages
        return await self._mutations.do(
            context,
            request,
            pb.Promotion,
            lambda tx: work(tx, name),
            from_promotion,
            touches=[name.parent],
            dry=dry,
        )


def _parent(checks: Checks, parent: str) -> tuple[str, str | None, tuple[str, object]]:
    """
    The namespace, the model (None for all), and what is missing when they are.
    """
    if parent.endswith(_ALL_MODELS):
        namespace = checks.name(NamespaceName, "parent", parent.removesuffix(_ALL_MODELS))
        return namespace.namespace, None, ("NAMESPACE_NOT_FOUND", namespace)
    model = checks.name(ModelName, "parent", parent)
    return model.namespace, model.model, ("MODEL_NOT_FOUND", model)
