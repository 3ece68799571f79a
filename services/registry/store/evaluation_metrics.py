"""
Data sets and metrics in the database, with the direction of each metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from services.ledger.model.calls import Missing
from services.ledger.model.changes import Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.registry.model.evaluation_metrics import (
    Dataset,
    Direction,
    Metric,
    MetricUpdate,
    scores_of,
    with_directions,
)
from services.registry.model.names import NamespaceName
from services.registry.model.search.filters import Condition
from services.registry.model.search.searches import OrderKey
from services.registry.store.parents import NAMESPACE

_LOWER = Statement(
    "metrics.lower",
    "SELECT metric FROM metrics WHERE namespace_id = $1 AND metric = ANY($2::text[]) AND direction = 'LOWER'",
)

_LIST_DATASETS = page_of(
    "datasets.list",
    """
SELECT dataset, pairs, results, 128 + octet_length(dataset) AS octets FROM boards
 WHERE namespace_id = $1 AND metric = $2 AND dataset > coalesce($3::text, '') ORDER BY dataset LIMIT $4
""",
    NAMESPACE,
)

# What was said of metrics without results is there, too. Both parts are read in the order of an index, so far as a page
# needs it.
_LIST_METRICS = page_of(
    "metrics.list",
    """
SELECT metric, direction, coalesce(pairs, 0) AS pairs, coalesce(results, 0) AS results, update_time,
       coalesce(metrics.revision, 0) AS said, 160 + octet_length(metric) AS octets
  FROM ((SELECT metric FROM boards
          WHERE namespace_id = $1 AND dataset = $2 AND metric > coalesce($3::text, '') ORDER BY metric LIMIT $4)
        UNION
        (SELECT metric FROM metrics
          WHERE $2 = '' AND namespace_id = $1 AND metric > coalesce($3::text, '') ORDER BY metric LIMIT $4)) AS known
  LEFT JOIN (SELECT * FROM boards WHERE namespace_id = $1 AND dataset = $2) AS counted USING (metric)
  LEFT JOIN (SELECT * FROM metrics WHERE namespace_id = $1) AS metrics USING (metric)
 ORDER BY metric LIMIT $4
""",
    NAMESPACE,
)

_LOCK = Statement(
    "metrics.lock",
    """
SELECT namespaces.namespace_id, metrics.direction, coalesce(boards.pairs, 0) AS pairs,
       coalesce(boards.results, 0) AS results
  FROM namespaces
  LEFT JOIN metrics ON metrics.namespace_id = $1 AND metrics.metric = $2
  LEFT JOIN boards ON boards.namespace_id = $1 AND boards.dataset = '' AND boards.metric = $2
 WHERE namespaces.namespace_id = $1 FOR KEY SHARE OF namespaces
""",
)

_UPDATE = last(
    "metrics.update",
    """
, made AS (
    INSERT INTO metrics AS known (namespace_id, metric, direction, update_time, revision)
    SELECT $10, $11, $12::text, next.moment, next.value FROM next WHERE $12 IS NOT NULL
    ON CONFLICT (namespace_id, metric) DO UPDATE
    SET direction = excluded.direction, update_time = excluded.update_time, revision = excluded.revision
), removed AS (
    DELETE FROM metrics WHERE namespace_id = $10 AND metric = $11 AND $12 IS NULL
)
SELECT next.value AS written, next.moment FROM next
""",
)


class EvaluationMetricStore:
    """
    Lists data sets and metrics, and sets the direction of metrics.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_datasets(self, parent: NamespaceName, metric: str, page: Page) -> Listed[Dataset]:
        """
        A page of the data sets of which there are results.

        Args:
            metric: only those with results of it; empty means any.

        Raises:
            Missing: there is no such namespace.
        """
        found = await self._database.fetch(_LIST_DATASETS, parent.namespace, metric, *after(page, 1))
        missing = ("NAMESPACE_NOT_FOUND", parent)
        return listed(page, found, missing, _to_dataset, lambda row: [row["dataset"]])

    async def list_metrics(self, parent: NamespaceName, dataset: str, page: Page) -> Listed[Metric]:
        """
        A page of the metrics of which there are results or a direction.

        Args:
            dataset: only those with results on it; empty means any.

        Raises:
            Missing: there is no such namespace.
        """
        found = await self._database.fetch(_LIST_METRICS, parent.namespace, dataset, *after(page, 1))
        missing = ("NAMESPACE_NOT_FOUND", parent)
        return listed(page, found, missing, _to_metric, lambda row: [row["metric"]])

    async def update_metric(self, transaction: Transaction, update: MetricUpdate) -> Metric:
        """
        Set the direction of a metric.

        Raises:
            Missing: there is no such namespace.
        """
        parent, direction = update.parent, update.direction
        before = await transaction.row(_LOCK, parent.namespace, update.metric)
        if before is None:
            raise Missing("NAMESPACE_NOT_FOUND", parent)
        # A metric's id may be anything, and is no part of a name: the change is that of all metrics.
        said = {"metric": update.metric, "direction": before["direction"]}
        journal = Journal.updated(f"{parent}/metrics", said, {**said, "direction": direction})
        row = (await transaction.last(_UPDATE, journal, parent.namespace, update.metric, direction))[0]
        moment = row["moment"] if direction is not None else None
        return Metric(update.metric, direction, before["pairs"], before["results"], moment, row["written"])


class Reading(Protocol):
    """
    Statements on one snapshot, or in one transaction.
    """

    async def fetch(self, statement: Statement, args: Sequence[Any]) -> list[Row]:
        """
        The rows that a statement returns.
        """


async def lower_is_better(snapshot: Reading, parent: NamespaceName, metrics: frozenset[str]) -> frozenset[str]:
    """
    Those of *metrics* for which lower is better.
    """
    if not metrics:
        return metrics
    return frozenset(row["metric"] for row in await snapshot.fetch(_LOWER, [parent.namespace, sorted(metrics)]))


async def resolve_directions(snapshot: Reading, parent: NamespaceName, condition: Condition | None) -> Condition | None:
    """
    The condition with the best results of models, whichever way the metrics are better.
    """
    if condition is None:
        return None
    metrics = frozenset(score.metric for score in scores_of(condition))
    return with_directions(condition, await lower_is_better(snapshot, parent, metrics)) if metrics else condition


async def resolve_order_directions(
    snapshot: Reading, parent: NamespaceName, order: Sequence[OrderKey]
) -> tuple[OrderKey, ...]:
    """
    The order with the best results of models, whichever way the metrics are better.
    """
    metrics = frozenset(key.score.metric for key in order if key.score is not None)
    lower = await lower_is_better(snapshot, parent, metrics)
    return tuple(
        replace(key, score=replace(key.score, lower=True))
        if key.score is not None and key.score.metric in lower
        else key
        for key in order
    )


def _to_dataset(row: Row) -> Dataset:
    return Dataset(row["dataset"], row["pairs"], row["results"])


def _to_metric(row: Row) -> Metric:
    direction = Direction(row["direction"]) if row["direction"] is not None else None
    return Metric(row["metric"], direction, row["pairs"], row["results"], row["update_time"], row["said"])
