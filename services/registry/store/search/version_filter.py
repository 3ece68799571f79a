# ruff: noqa: S608 - only compiled conditions are interpolated; values are parameters
"""
Whether one version satisfies a filter: the search's own condition, over one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.registry.model.names import VersionName
from services.registry.model.search.filters import Condition
from services.registry.store.evaluation_metrics import resolve_directions
from services.registry.store.search.filters import Parameters, sql_of

# What a condition reads, in place of the tables of these names: the model as this version makes it, and the results of
# this version alone. `models` inside of its own definition is the table.
_OF_VERSION = """
WITH models AS (
    SELECT models.id, models.namespace_id, models.model_id, models.display_name, models.description, models.owner,
           models.task, models.framework, models.license, models.parameter_count, models.search,
           models.labels || versions.labels AS labels,
           ARRAY(SELECT nfc(key || '=' || value) FROM jsonb_each_text(models.labels || versions.labels)) AS label_pairs,
           versions.number AS newest_version, versions.number AS latest_version, versions.create_time,
           versions.update_time
      FROM models JOIN versions ON versions.model = models.id
     WHERE models.id = $1 AND versions.number = $2
), best AS (
    SELECT model, namespace_id, dataset, metric, max(value) AS high, min(value) AS low FROM evaluations
     WHERE model = $1 AND version = $2 GROUP BY model, namespace_id, dataset, metric
)
"""


async def satisfies(transaction: Transaction, model: int, version: VersionName, condition: Condition) -> bool:
    """
    Whether a version satisfies a condition, as of now.

    Args:
        model: the key of its model, which is locked.
    """
    namespace = version.parent.parent
    resolved = await resolve_directions(_Within(transaction), namespace, condition)
    assert resolved is not None  # noqa: S101 - for the type checker: only no condition resolves to none
    parameters = Parameters(model, version.number)
    sql = sql_of(resolved, namespace, parameters)
    row = await transaction.row(
        Statement("versions.satisfies", f"{_OF_VERSION}SELECT {sql} AS holds FROM models"), *parameters.values
    )
    return row is not None and bool(row["holds"])


class _Within:
    """
    The statements of a search, in a write's transaction.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def fetch(self, statement: Statement, args: Sequence[Any]) -> list[Row]:
        return await self._transaction.rows(statement, *args)
