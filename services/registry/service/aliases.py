"""
AliasService.
"""

from __future__ import annotations

from datetime import datetime

from modelyard.registry.v1 import aliases_pb2 as pb
from modelyard.registry.v1.aliases_pb2_grpc import AliasServiceServicer
from services.chassis.checks import Checks
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.aliases import MOST_MOVES, Alias, Move, check_moves, version_of
from services.registry.model.names import AliasName, ModelName
from services.registry.service.parsing import to_time
from services.registry.service.rendering import from_alias, from_alias_period
from services.registry.store.aliases import AliasStore


class AliasService(AliasServiceServicer):
    """
    The servicer of modelyard.registry.v1.AliasService.
    """

    def __init__(self, aliases: AliasStore, mutations: Mutations) -> None:
        self._aliases = aliases
        self._mutations = mutations

    async def MoveAliases(self, request: pb.MoveAliasesRequest, context: Context) -> pb.MoveAliasesResponse:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        checks.size("moves", request.moves, MOST_MOVES)
        moves = [
            Move.check(
                checks,
                f"moves[{index}]",
                parent,
                each.alias_id,
                each.version,
                each.expected_version,
                absent=each.expected_absent,
            )
            for index, each in enumerate(request.moves[:MOST_MOVES])
        ]
        check_moves(checks, moves)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.MoveAliasesResponse,
            lambda tx: self._aliases.move(tx, parent, moves),
            _moved,
            touches=[parent],
            dry=request.validate_only,
        )

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.Alias:
        checks = Checks()
        name = checks.name(AliasName, "name", request.name)
        expected = version_of(checks, "expected_version", name.parent, request.expected_version)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.Alias,
            lambda tx: self._aliases.rollback(tx, name, expected),
            from_alias,
            touches=[name.parent],
            dry=request.validate_only,
        )

    async def GetAlias(self, request: pb.GetAliasRequest, context: Context) -> pb.Alias:
        checks = Checks()
        name = checks.name(AliasName, "name", request.name)
        at: datetime | None = None
        if request.HasField("read_time"):
            at = to_time(checks, "read_time", request.read_time)
        checks.raise_if_any()
        return from_alias((await reflect(context, self._aliases.get(name, at))).value)

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        version = version_of(checks, "version", parent, request.version)
        parts = (request.parent, *([request.version] if request.version else []))
        page = Page.check(checks, Query("ListAliases", parts, (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._aliases.list_page(parent, page, version))
        return pb.ListAliasesResponse(aliases=map(from_alias, found.items), next_page_token=found.token)

    async def ListAliasMoves(self, request: pb.ListAliasMovesRequest, context: Context) -> pb.ListAliasMovesResponse:
        checks = Checks()
        name = checks.name(AliasName, "parent", request.parent)
        query = Query("ListAliasMoves", (request.parent,), (datetime,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._aliases.history(name, page))
        moves = [from_alias_period(period, name) for period in found.items]
        return pb.ListAliasMovesResponse(moves=moves, next_page_token=found.token)


def _moved(aliases: list[Alias]) -> pb.MoveAliasesResponse:
    return pb.MoveAliasesResponse(aliases=map(from_alias, aliases))
