# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Leaderboards in the database.
"""

from __future__ import annotations

from typing import Any

from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.registry.model.evaluations import Leaderboard, Place
from services.registry.model.names import ModelName, NamespaceName
from services.registry.store import rows
from services.registry.store.conditions import Parameters, sql_after, sql_of, sql_order
from services.registry.store.parents import NAMESPACE


class LeaderboardStore:
    """
    Ranks models by their results.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def query(self, board: Leaderboard, page: Page, within: float | None) -> Listed[Place]:
        """
        A page of the models that have a result, the best first; each with its best result.

        Raises:
            Missing: there is no such namespace.
            DeadlineExceeded: it took longer than a search may.
        """
        statement, parameters = _statement(board, page)
        found = await self._database.search(statement, parameters, within=within)
        missing = ("NAMESPACE_NOT_FOUND", board.parent)
        return listed(
            page, found, missing, lambda row: _place(row, board.parent), lambda row: [row["value"], row["model"]]
        )


def _statement(board: Leaderboard, page: Page) -> tuple[Statement, list[Any]]:
    parameters = Parameters(board.parent.namespace, board.dataset, board.metric)
    # Equal values go by the model's age, the way of the values, so that one index serves both ways.
    columns = [
        ("evaluations.value", "float8", not board.ascending),
        ("evaluations.model", "bigint", not board.ascending),
    ]
    where = ["evaluations.namespace_id = $1", "evaluations.dataset = $2", "evaluations.metric = $3"]
    where.append("models.delete_time IS NULL")
    where.append(f"""NOT EXISTS (
    SELECT FROM evaluations AS better
     WHERE better.model = evaluations.model AND better.dataset = $2 AND better.metric = $3
       AND (better.value, better.id) {"<" if board.ascending else ">"} (evaluations.value, evaluations.id))""")
    if board.condition is not None:
        where.append(sql_of(board.condition, board.parent, parameters))
    if page.after is not None:
        where.append(sql_after(columns, page.after, parameters))
    found = f"""
SELECT {rows.EVALUATION}, evaluations.model, evaluations.octets, models.model_id, models.parameter_count
  FROM evaluations JOIN models ON models.id = evaluations.model
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT {parameters.add(page.size + 1, "bigint")}
"""
    return page_of("evaluations.leaderboard", found, NAMESPACE), parameters.values


def _place(row: Row, parent: NamespaceName) -> Place:
    model = ModelName(parent.namespace, row["model_id"])
    return Place(model, rows.to_evaluation(row, model), row["parameter_count"])
