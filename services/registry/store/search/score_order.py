# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Searches ordered by an evaluation result.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from services.ledger.model.pages import Page
from services.ledger.store.paging import page_of
from services.ledger.store.statements import Statement
from services.registry.model.search.filters import Score
from services.registry.model.search.searches import OrderKey, Search
from services.registry.store import rows
from services.registry.store.parents import NAMESPACE
from services.registry.store.search.filters import Parameters, sql_after, sql_order

_COLUMNS = {
    "name": ("models.model_id", "text"),
    "parameter_count": ("models.parameter_count", "bigint"),
    "create_time": ("models.create_time", "timestamptz"),
    "update_time": ("models.update_time", "timestamptz"),
}


def columns_of(order: Sequence[OrderKey]) -> list[tuple[str, str, bool]]:
    """
    The columns of an order of fields of the model, as `sql_order` takes them.
    """
    return [(*_COLUMNS[key.field], key.descending) for key in order]


def by_score(
    score: Score, search: Search, page: Page, where: Sequence[str], parameters: Parameters, *, corrected: bool
) -> tuple[Statement, list[Any]]:
    """
    A page in the order of a result: along the index of the best results of models; then those without.

    Args:
        where: what the models meet, with $1 the namespace and $2 the number of rows.
    """
    descending, after = search.order[0].descending, page.after
    rest = columns_of(search.order[1:])
    columns = [("scored.value", "float8", descending), *rest]
    end = "low" if score.lower else "high"
    # In page tokens: beyond all other values, whichever way the order goes.
    nothing = -sys.float_info.max if descending else sys.float_info.max
    of_board = (
        f"""dataset = {parameters.add(score.dataset, "text")} AND metric = {parameters.add(score.metric, "text")}"""
    )
    selected = f"{rows.MODEL}, models.octets, {corrected} AS is_corrected"
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(rest, start=1))
    parts = []
    if after is None or after[0] != nothing:
        begin = [sql_after(columns, after[: len(columns)], parameters)] if after is not None else []
        parts.append(f"""
(SELECT {selected}, scored.value AS key_0{keys}
   FROM (SELECT model, {end} AS value FROM best WHERE namespace_id = $1 AND {of_board} AND {end} IS NOT NULL
        ) AS scored JOIN models ON models.id = scored.model
  WHERE {" AND ".join([*where, *begin])}
  ORDER BY {sql_order(columns)} LIMIT $2)
""")
    begin = [sql_after(rest, after[1 : len(columns)], parameters)] if after is not None and not parts else []
    # Asked of one model after the other, as far as the page needs: as NOT EXISTS it becomes a join that reads all.
    without = f"(SELECT {end} FROM best WHERE best.model = models.id AND {of_board}) IS NULL"
    parts.append(f"""
(SELECT {selected}, {parameters.add(nothing, "float8")} AS key_0{keys} FROM models
  WHERE {" AND ".join([*where, without, *begin])}
  ORDER BY {sql_order(rest)} LIMIT $2)
""")
    found = f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS parts LIMIT $2"
    return page_of("models.search_by_score", found, NAMESPACE), parameters.values
