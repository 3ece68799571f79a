# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Searches in the database.
"""

from __future__ import annotations

from typing import Any

from services.registry.model.models import Model
from services.registry.model.pages import Key, Listed, Page
from services.registry.model.searches import BEST_MATCH, OrderKey, Search
from services.registry.store import rows
from services.registry.store.conditions import Parameters, sql_after, sql_of, sql_order
from services.registry.store.database import Database
from services.registry.store.paging import NAMESPACE, listed, page_of
from services.registry.store.servers import Row
from services.registry.store.statements import Statement

_COLUMNS = {
    # Longer texts have more words to match by chance: 1 divides the rank by the logarithm of the length.
    BEST_MATCH: ("ts_rank(models.search, words.query, 1)::float8", "float8"),
    "name": ("models.model_id", "text"),
    "parameter_count": ("models.parameter_count", "bigint"),
    "create_time": ("models.create_time", "timestamptz"),
    "update_time": ("models.update_time", "timestamptz"),
}


class SearchStore:
    """
    Finds models.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(self, search: Search, page: Page, within: float | None) -> Listed[Model]:
        """
        A page of the models that a search finds.

        Args:
            within: seconds that the caller has left, when that is known.

        Raises:
            Missing: there is no such namespace.
            DeadlineExceeded: it took longer than a search may.
        """
        statement, parameters = _statement(search, page)
        found = await self._database.search(statement, parameters, within=within)
        return listed(
            page, found, ("NAMESPACE_NOT_FOUND", search.parent), rows.to_model, lambda row: _key(row, search.order)
        )


def _statement(search: Search, page: Page) -> tuple[Statement, list[Any]]:
    parameters = Parameters(search.parent.namespace)
    columns = [(*_COLUMNS[key.field], key.descending) for key in search.order]
    where = ["models.namespace_id = $1", "models.delete_time IS NULL"]
    source = "models"
    if search.words:
        # Made once for the statement, not once for each row.
        words = parameters.add(list(search.words), "text[]")
        source = f"(SELECT model_query({words}) AS query OFFSET 0) AS words, models"
        where.append("models.search @@ words.query")
    if search.condition is not None:
        where.append(sql_of(search.condition, search.parent, parameters))
    if page.after is not None:
        where.append(sql_after(columns, page.after, parameters))
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(columns))
    found = f"""
SELECT {rows.MODEL}, models.octets{keys} FROM {source}
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT {parameters.add(page.size + 1, "bigint")}
"""
    return page_of("models.search", found, NAMESPACE), parameters.values


def _key(row: Row, order: tuple[OrderKey, ...]) -> list[Key]:
    return [row[f"key_{index}"] for index in range(len(order))]
