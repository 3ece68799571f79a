"""
EvaluationService.
"""

from __future__ import annotations

from modelyard.registry.v1 import evaluations_pb2 as pb
from modelyard.registry.v1.evaluations_pb2_grpc import EvaluationServiceServicer
from services.chassis.checks import Checks
from services.chassis.deadlines import remaining
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.evaluation_metrics import Direction, MetricUpdate, check_measure
from services.registry.model.evaluations import (
    MOST_DELETED,
    MOST_RECORDED,
    EvaluationDraft,
    EvaluationFilter,
    EvaluationName,
    Leaderboard,
    RecordedEvaluations,
    Selection,
)
from services.registry.model.names import ModelName, NamespaceName, VersionName
from services.registry.model.search.filter_parser import parse_filter
from services.registry.service.parsing import to_evaluation_draft
from services.registry.service.rendering import (
    from_dataset,
    from_direction,
    from_evaluation,
    from_leaderboard_entry,
    from_metric,
)
from services.registry.store.evaluation_metrics import EvaluationMetricStore
from services.registry.store.evaluations import EvaluationStore
from services.registry.store.leaderboards import LeaderboardStore


class EvaluationService(EvaluationServiceServicer):
    """
    The servicer of modelyard.registry.v1.EvaluationService.
    """

    def __init__(
        self,
        evaluations: EvaluationStore,
        leaderboards: LeaderboardStore,
        measures: EvaluationMetricStore,
        mutations: Mutations,
    ) -> None:
        self._evaluations = evaluations
        self._leaderboards = leaderboards
        self._measures = measures
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
            lambda tx: self._evaluations.record(tx, parent, drafts, replace=request.replace),
            _recorded,
            # Results of several models lock all of them: such a write is not grouped.
            touches=list(models) if len(models) == 1 else None,
        )

    async def DeleteEvaluations(
        self, request: pb.DeleteEvaluationsRequest, context: Context
    ) -> pb.DeleteEvaluationsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        names, selection = _going(checks, parent, request)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        models = {name.version.parent for name in names} if selection is None else {selection.version.parent}
        return await self._mutations.do(
            context,
            request,
            pb.DeleteEvaluationsResponse,
            lambda tx: (
                self._evaluations.delete_named(tx, parent, names)
                if selection is None
                else self._evaluations.delete_selected(tx, selection)
            ),
            _deleted,
            touches=list(models) if len(models) == 1 else None,
        )

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: Context) -> pb.ListEvaluationsResponse:
        checks = Checks()
        wanted = EvaluationFilter(
            _model_or_version(checks, request.parent),
            _any(checks, "dataset", request.dataset),
            _any(checks, "metric", request.metric),
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
        direction = _direction(checks, "direction", request.direction)
        if request.ascending and direction is Direction.HIGHER:
            checks.add("direction", "says the opposite of ascending: set one of them")
        board = Leaderboard(
            checks.name(NamespaceName, "parent", request.parent),
            check_measure(checks, "dataset", request.dataset),
            check_measure(checks, "metric", request.metric),
            parse_filter(checks, "filter", request.filter),
            Direction.LOWER if request.ascending else direction,
        )
        parts = (request.parent, request.dataset, request.metric, request.filter, str(board.direction))
        query = Query("QueryLeaderboard", parts, (float, int, int))
        page = Page.check(checks, query, request.page_size, request.page_token, usual=20, most=200)
        checks.raise_if_any()
        found = await reflect(context, self._leaderboards.query(board, page, remaining()))
        return pb.QueryLeaderboardResponse(
            entries=map(from_leaderboard_entry, found.entries.items),
            next_page_token=found.entries.token,
            direction=from_direction(found.direction),
        )

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        metric = _any(checks, "metric", request.metric)
        query = Query("ListDatasets", (request.parent, request.metric), (str,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._measures.list_datasets(parent, metric, page))
        return pb.ListDatasetsResponse(datasets=map(from_dataset, found.items), next_page_token=found.token)

    async def ListMetrics(self, request: pb.ListMetricsRequest, context: Context) -> pb.ListMetricsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        dataset = _any(checks, "dataset", request.dataset)
        query = Query("ListMetrics", (request.parent, request.dataset), (str,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._measures.list_metrics(parent, dataset, page))
        return pb.ListMetricsResponse(metrics=map(from_metric, found.items), next_page_token=found.token)

    async def UpdateMetric(self, request: pb.UpdateMetricRequest, context: Context) -> pb.Metric:
        checks = Checks()
        update = MetricUpdate(
            checks.name(NamespaceName, "parent", request.parent),
            check_measure(checks, "metric.metric", request.metric.metric),
            _direction(checks, "metric.direction", request.metric.direction),
        )
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.Metric,
            lambda tx: self._measures.update_metric(tx, update),
            from_metric,
            touches=[f"{update.parent}/metrics"],
        )


def _draft(checks: Checks, at: str, parent: NamespaceName, evaluation: pb.Evaluation) -> EvaluationDraft:
    version = checks.name(VersionName, f"{at}.version", evaluation.version)
    _check_below(checks, f"{at}.version", version, parent)
    draft = to_evaluation_draft(checks, at, evaluation, version)
    draft.check(checks, at)
    return draft


def _going(
    checks: Checks, parent: NamespaceName, request: pb.DeleteEvaluationsRequest
) -> tuple[list[EvaluationName], Selection | None]:
    if not request.HasField("selection"):
        checks.size("names", request.names, MOST_DELETED)
        names = []
        for index, text in enumerate(request.names[:MOST_DELETED]):
            names.append(checks.name(EvaluationName, f"names[{index}]", text))
            _check_below(checks, f"names[{index}]", names[-1].version, parent)
        return names, None
    if request.names:
        checks.add("selection", "takes the place of names: set one of them")
    chosen = request.selection
    selection = Selection(
        checks.name(VersionName, "selection.version", chosen.version),
        _any(checks, "selection.dataset", chosen.dataset),
        _any(checks, "selection.metric", chosen.metric),
    )
    _check_below(checks, "selection.version", selection.version, parent)
    return [], selection


def _check_below(checks: Checks, field: str, version: VersionName, parent: NamespaceName) -> None:
    if version.namespace and version.namespace != parent.namespace:
        checks.add(field, "must be below the parent")


def _model_or_version(checks: Checks, parent: str) -> ModelName | VersionName:
    if "/versions/" in parent:
        return checks.name(VersionName, "parent", parent)
    return checks.name(ModelName, "parent", parent)


def _any(checks: Checks, field: str, text: str) -> str:
    return check_measure(checks, field, text) if text else ""


def _direction(checks: Checks, field: str, direction: int) -> Direction | None:
    if direction not in _DIRECTIONS:
        checks.add(field, f"must be one of {', '.join(Direction)}")
    return _DIRECTIONS.get(direction)


def _recorded(recorded: RecordedEvaluations) -> pb.RecordEvaluationsResponse:
    return pb.RecordEvaluationsResponse(
        recorded_count=recorded.count, revision=recorded.revision, replaced_count=recorded.replaced
    )


def _deleted(deleted: RecordedEvaluations) -> pb.DeleteEvaluationsResponse:
    return pb.DeleteEvaluationsResponse(deleted_count=deleted.count, revision=deleted.revision)


_DIRECTIONS: dict[int, Direction | None] = {
    pb.Metric.DIRECTION_UNSPECIFIED: None,
    pb.Metric.DIRECTION_HIGHER: Direction.HIGHER,
    pb.Metric.DIRECTION_LOWER: Direction.LOWER,
}
