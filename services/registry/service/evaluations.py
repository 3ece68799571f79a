"""
EvaluationService.
"""

from __future__ import annotations

from modelyard.registry.v1 import evaluations_pb2 as pb
from modelyard.registry.v1.evaluations_pb2_grpc import EvaluationServiceServicer
from services.chassis.checks import SLUG, Checks
from services.chassis.context import Context
from services.chassis.deadlines import remaining
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.evaluations import (
    MOST_RECORDED,
    EvaluationDraft,
    EvaluationFilter,
    Leaderboard,
    Recorded,
)
from services.registry.model.names import ModelName, NamespaceName, VersionName
from services.registry.model.parsing import parse_filter
from services.registry.service.parsing import to_evaluation_draft
from services.registry.service.rendering import from_evaluation, from_place
from services.registry.store.evaluations import EvaluationStore
from services.registry.store.leaderboards import LeaderboardStore


class EvaluationService(EvaluationServiceServicer):
    """
    The servicer of modelyard.registry.v1.EvaluationService.
    """

    def __init__(self, evaluations: EvaluationStore, leaderboards: LeaderboardStore, mutations: Mutations) -> None:
        self._evaluations = evaluations
        self._leaderboards = leaderboards
        self._mutations = mutations

    async def RecordEvaluations(
        self, request: pb.RecordEvaluationsRequest, context: Context
    ) -> pb.RecordEvaluationsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        checks.size("evaluations", request.evaluations, MOST_RECORDED)
        drafts = [
            _draft(checks, f"evaluations[{index}]", parent, each)
            for index, each in enumerate(request.evaluations[:MOST_RECORDED])
        ]
        checks.request_id(request.request_id)
        checks.raise_if_any()
        models = {draft.version.parent for draft in drafts}
        return await self._mutations.do(
            context,
            request,
            pb.RecordEvaluationsResponse,
            lambda tx: self._evaluations.record(tx, parent, drafts),
            _recorded,
            # Results of many models lock them all: such a write goes alone.
            touches=list(models) if len(models) == 1 else None,
        )

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: Context) -> pb.ListEvaluationsResponse:
        checks = Checks()
        wanted = EvaluationFilter(
            _model_or_version(checks, request.parent),
            _slug(checks, "dataset", request.dataset),
            _slug(checks, "metric", request.metric),
            checks.finite("min_value", request.min_value) if request.HasField("min_value") else None,
            checks.finite("max_value", request.max_value) if request.HasField("max_value") else None,
        )
        parts = (request.parent, request.dataset, request.metric, str(wanted.least), str(wanted.most))
        query = Query("ListEvaluations", parts, (str, str, int))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._evaluations.list_page(wanted, page))
        return pb.ListEvaluationsResponse(evaluations=map(from_evaluation, found.items), next_page_token=found.token)

    async def QueryLeaderboard(
        self, request: pb.QueryLeaderboardRequest, context: Context
    ) -> pb.QueryLeaderboardResponse:
        checks = Checks()
        board = Leaderboard(
            checks.name(NamespaceName, "parent", request.parent),
            checks.matches("dataset", request.dataset, SLUG),
            checks.matches("metric", request.metric, SLUG),
            parse_filter(checks, "filter", request.filter),
            request.ascending,
        )
        parts = (request.parent, request.dataset, request.metric, request.filter, str(request.ascending))
        query = Query("QueryLeaderboard", parts, (float, int))
        page = Page.check(checks, query, request.page_size, request.page_token, usual=20, most=200)
        checks.raise_if_any()
        found = await reflect(context, self._leaderboards.query(board, page, remaining()))
        return pb.QueryLeaderboardResponse(entries=map(from_place, found.items), next_page_token=found.token)


def _draft(checks: Checks, at: str, parent: NamespaceName, evaluation: pb.Evaluation) -> EvaluationDraft:
    version = checks.name(VersionName, f"{at}.version", evaluation.version)
    if version.namespace and version.namespace != parent.namespace:
        checks.add(f"{at}.version", "must be below the parent")
    draft = to_evaluation_draft(checks, at, evaluation, version)
    draft.check(checks, at)
    return draft


def _model_or_version(checks: Checks, parent: str) -> ModelName | VersionName:
    if "/versions/" in parent:
        return checks.name(VersionName, "parent", parent)
    return checks.name(ModelName, "parent", parent)


def _slug(checks: Checks, field: str, text: str) -> str:
    return checks.matches(field, text, SLUG) if text else ""


def _recorded(recorded: Recorded) -> pb.RecordEvaluationsResponse:
    return pb.RecordEvaluationsResponse(recorded_count=recorded.count, revision=recorded.revision)
