"""
CardService.
"""

from __future__ import annotations

import asyncio

from modelyard.registry.v1 import cards_pb2 as pb
from modelyard.registry.v1.cards_pb2_grpc import CardServiceServicer
from services.chassis.checks import MOST_INT64, Checks
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.card_metadata import metadata_of
from services.registry.model.cards import MUTABLE, SECTIONS, CardDraft, CardUpdate
from services.registry.model.field_masks import check_mask
from services.registry.model.frontmatter import parse_card
from services.registry.model.names import CardName, VersionName
from services.registry.service.parsing import to_card_draft
from services.registry.service.rendering import from_card
from services.registry.store.card_imports import import_card
from services.registry.store.cards import CardStore


class CardService(CardServiceServicer):
    """
    The servicer of modelyard.registry.v1.CardService.
    """

    def __init__(self, cards: CardStore, mutations: Mutations) -> None:
        self._cards = cards
        self._mutations = mutations

    async def GetCard(self, request: pb.GetCardRequest, context: Context) -> pb.Card:
        name, number = _wanted(request)
        return from_card((await reflect(context, self._cards.get(name, number))).value)

    async def UpdateCard(self, request: pb.UpdateCardRequest, context: Context) -> pb.Card:
        checks = Checks()
        name = checks.name(CardName, "card.name", request.card.name)
        paths = check_mask(checks, request.update_mask.paths, MUTABLE)
        draft = to_card_draft(request.card)
        draft.check(checks, "card", paths)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._write(context, request, CardUpdate(name, draft, paths, request.card.etag))

    async def ListCardNumbers(self, request: pb.ListCardNumbersRequest, context: Context) -> pb.ListCardNumbersResponse:
        checks = Checks()
        name = checks.name(CardName, "parent", request.parent)
        query = Query("ListCardNumbers", (request.parent,), (int,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._cards.list_page(name, page))
        return pb.ListCardNumbersResponse(cards=map(from_card, found.items), next_page_token=found.token)

    async def ImportCard(self, request: pb.ImportCardRequest, context: Context) -> pb.Card:
        checks = Checks()
        name = checks.name(CardName, "name", request.name)
        # The largest takes more than a second, in which other calls go on.
        parsed = await asyncio.to_thread(parse_card, checks, "content", request.content, SECTIONS)
        draft = CardDraft(**parsed.own, markdown=parsed.markdown, extra=parsed.extra, front=parsed.front)
        draft.check(checks, "content")
        checks.text("content", parsed.front, len(parsed.front))
        version = checks.name(VersionName, "version", request.version) if request.version else None
        if version is not None and version.model and version.parent != name.parent:
            checks.add("version", "is not one of the model")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        update = CardUpdate(name, draft, None, "")
        if request.card_only:
            return await self._write(context, request, update)
        facts = metadata_of(draft.license, draft.extra)
        return await self._mutations.do(
            context,
            request,
            pb.Card,
            lambda tx: import_card(tx, update, facts, version),
            from_card,
            touches=[name.parent],
        )

    async def ExportCard(self, request: pb.ExportCardRequest, context: Context) -> pb.ExportCardResponse:
        name, number = _wanted(request)
        draft = (await reflect(context, self._cards.get(name, number))).value.draft
        return pb.ExportCardResponse(content=draft.front + draft.markdown)

    async def _write(
        self, context: Context, request: pb.UpdateCardRequest | pb.ImportCardRequest, update: CardUpdate
    ) -> pb.Card:
        return await self._mutations.do(
            context,
            request,
            pb.Card,
            lambda tx: self._cards.write(tx, update),
            from_card,
            touches=[update.name.parent],
        )


def _wanted(request: pb.GetCardRequest | pb.ExportCardRequest) -> tuple[CardName, int]:
    checks = Checks()
    name = checks.name(CardName, "name", request.name)
    number = checks.count("number", request.number)
    checks.raise_if_any()
    return name, min(number, MOST_INT64)
