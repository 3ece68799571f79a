# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Selectivity estimates, which choose the plan of a search: find and sort all matches, or scan in result order.

A search that matches few models is fastest by finding all of them and sorting; one that matches many by scanning the
models in result order until the page is full. The wrong choice costs a thousand times more, and PostgreSQL's planner
makes it when conditions are correlated (the word "security" and the label team=security), because it multiplies their
selectivities. Therefore the most selective condition alone decides here.

The number of matches of a word or a label comes from the planner's statistics (most common elements, cached for a
minute); the number beyond a bound is counted in the index, up to the threshold that matters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from services.ledger.store.servers import Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.search.filters import (
    Comparison,
    Condition,
    CreateTime,
    Description,
    Every,
    Label,
    Op,
    ParameterCount,
    Score,
    UpdateTime,
)
from services.registry.model.search.searches import Search
from services.registry.store.search.filters import SQL_OPS, best_of
from services.registry.store.search.words import look_up_terms

# Up to so many models are always found and sorted.
FEW = 2_000
# Up to so many are sorted rather than left to the planner; an index is counted up to this number.
SOME = 12_000
# Up to so many are sorted when a scan has not filled a page; more are never sorted.
MANY = 100_000
_KEEP_SECONDS = 60.0
# The assumed share of models with a word or a label that is not among the most common ones.
_UNKNOWN = 0.0005

_STATISTICS = Statement(
    "models.statistics",
    """
SELECT attname, most_common_elems::text::text[] AS elements, most_common_elem_freqs AS shares,
       (SELECT reltuples FROM pg_class WHERE oid = 'models'::regclass) AS total
  FROM pg_stats
 WHERE tablename = 'models' AND schemaname = current_schema() AND attname IN ('search', 'label_pairs')
""",
)


class SelectivityEstimator:
    """
    Estimates the number of matching models for the searches of a process.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._total = 0.0
        self._shares: dict[str, Mapping[str, float]] = {}

    async def by_words(self, snapshot: Snapshot, groups: Sequence[frozenset[str]]) -> float:
        """
        Estimate how many models have at least one lexeme of the rarest group.
        """
        await self._refresh(snapshot)
        return min((self._models("search", group) for group in groups), default=math.inf)

    async def by_filter(self, snapshot: Snapshot, search: Search) -> float:
        """
        Estimate how many models meet the most selective condition of *search*; infinite when no index can tell.
        """
        await self._refresh(snapshot)
        needed = list(_needed(search.condition)) if search.condition is not None else []
        least = min((self._models("label_pairs", pair) for each in needed if (pair := _pair(each))), default=math.inf)
        for each in needed:
            if isinstance(each.field, Description) and each.value is not None:
                terms = await look_up_terms(snapshot, search.parent, [str(each.value)])
                least = min(least, await self.by_words(snapshot, terms.needs()))
        for each in needed:
            if least > FEW and (probe := _probe(each, search)) is not None:
                count = (await snapshot.fetch(*probe))[0]["count"]
                least = min(least, count if count <= SOME else math.inf)
        return least

    def _models(self, column: str, elements: frozenset[str]) -> float:
        shares = self._shares.get(column, {})
        rare = min(shares.values(), default=_UNKNOWN)
        return self._total * sum(shares.get(element, rare) for element in elements)

    async def _refresh(self, snapshot: Snapshot) -> None:
        if time.monotonic() < self._until:
            return
        for row in await snapshot.fetch(_STATISTICS, ()):
            # The last two or three shares are those of the least, the most and of NULLs.
            self._shares[row["attname"]] = dict(zip(row["elements"] or (), row["shares"] or (), strict=False))
            self._total = max(row["total"], 0.0)
        self._until = time.monotonic() + _KEEP_SECONDS


def _needed(condition: Condition) -> Iterator[Comparison]:
    """
    The comparisons that every match must meet.
    """
    if isinstance(condition, Comparison):
        yield condition
    elif isinstance(condition, Every):
        for part in condition.parts:
            yield from _needed(part)


def _pair(comparison: Comparison) -> frozenset[str]:
    """
    The label that a comparison asks for; empty when it asks for something else.
    """
    field, value = comparison.field, comparison.value
    if isinstance(field, Label) and comparison.op in {Op.EQUAL, Op.HAS} and value is not None:
        return frozenset([f"{field.key}={value}"])
    return frozenset()


def _probe(comparison: Comparison, search: Search) -> tuple[Statement, list[object]] | None:
    """
    The statement that counts the matches of a comparison in an index; None when no index has them.
    """
    field, op, value = comparison.field, comparison.op, comparison.value
    if value is None or op in {Op.HAS, Op.UNEQUAL}:
        return None
    if isinstance(field, ParameterCount):
        sql = f"""
SELECT FROM models WHERE namespace_id = $1 AND parameter_count > 0 AND parameter_count {SQL_OPS[op]} $2::bigint
 LIMIT {SOME + 1}"""
        return _counted("parameter_count", sql), [search.parent.namespace, value]
    if isinstance(field, CreateTime | UpdateTime):
        column = "create_time" if isinstance(field, CreateTime) else "update_time"
        sql = f"SELECT FROM models WHERE namespace_id = $1 AND {column} {SQL_OPS[op]} $2::timestamptz LIMIT {SOME + 1}"
        return _counted(column, sql), [search.parent.namespace, value]
    if isinstance(field, Score):
        sql = f"""
SELECT FROM best WHERE namespace_id = $1 AND dataset = $2 AND metric = $3 AND {best_of(field, "best")} {SQL_OPS[op]}
 $4::float8 LIMIT {SOME + 1}"""
        return _counted("evaluations", sql), [search.parent.namespace, field.dataset, field.metric, value]
    return None


def _counted(name: str, sql: str) -> Statement:
    return Statement(f"models.few_by_{name}", f"SELECT count(*) FROM ({sql}) AS found")
