# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Leaderboards in the database: `best` has a row for each model (docs/adr/0036).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.chassis.errors import InvalidArgument
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.evaluation_metrics import Direction
from services.registry.model.evaluations import Leaderboard, LeaderboardEntry, LeaderboardPage
from services.registry.model.names import ModelName, NamespaceName
from services.registry.model.search.filters import Score
from services.registry.store import rows
from services.registry.store.evaluation_metrics import lower_is_better, resolve_directions
from services.registry.store.parents import NAMESPACE
from services.registry.store.search.filters import Parameters, best_of, sql_after, sql_of, sql_order


class LeaderboardStore:
    """
    Ranks models by their results.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def query(self, board: Leaderboard, page: Page, within: float | None) -> LeaderboardPage:
        """
        A page of the models that have a result, the best first; each with its best result.

        Raises:
            Missing: there is no such namespace.
            InvalidArgument: which way the metric is better has changed since the page before.
            DeadlineExceeded: it took longer than a search may.
        """
        lower = False

        async def work(snapshot: Snapshot) -> list[Row]:
            nonlocal lower
            lower = board.direction is Direction.LOWER
            if board.direction is None:
                lower = bool(await lower_is_better(snapshot, board.parent, frozenset([board.metric])))
            if page.after is not None and page.after[2] != int(lower):
                raise InvalidArgument.of(
                    "page_token", "the direction of the metric has changed: start again from the first page"
                )
            condition = await resolve_directions(snapshot, board.parent, board.condition)
            return await snapshot.fetch(*_statement(replace(board, condition=condition), page, lower=lower))

        found = await self._database.search_with(work, within=within)
        missing = ("NAMESPACE_NOT_FOUND", board.parent)
        entries: Listed[LeaderboardEntry] = listed(
            page,
            found,
            missing,
            lambda row: _entry(row, board.parent),
            lambda row: [row["value"], row["model"], int(lower)],
        )
        return LeaderboardPage(entries, Direction.LOWER if lower else Direction.HIGHER)


def _statement(board: Leaderboard, page: Page, *, lower: bool) -> tuple[Statement, list[Any]]:
    parameters = Parameters(board.parent.namespace, board.dataset, board.metric)
    value = best_of(Score(board.dataset, board.metric, lower), "best")
    # Equal values go by the model's age, the way of the values, so that one index serves both ways.
    columns = [(value, "float8", not lower), ("best.model", "bigint", not lower)]
    where = ["best.namespace_id = $1", "best.dataset = $2", "best.metric = $3", f"{value} IS NOT NULL"]
    where.append("models.delete_time IS NULL")
    if board.condition is not None:
        where.append(sql_of(board.condition, board.parent, parameters))
    if page.after is not None:
        where.append(sql_after(columns, page.after[:2], parameters))
    found = f"""
SELECT {rows.EVALUATION}, evaluations.model, evaluations.octets, models.model_id, models.parameter_count
  FROM best JOIN models ON models.id = best.model JOIN evaluations ON evaluations.id = {value}_id
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT {parameters.add(page.size + 1, "bigint")}
"""
    return page_of("evaluations.leaderboard", found, NAMESPACE), parameters.values


def _entry(row: Row, parent: NamespaceName) -> LeaderboardEntry:
    model = ModelName(parent.namespace, row["model_id"])
    return LeaderboardEntry(model, rows.to_evaluation(row, model), row["parameter_count"])
