# ruff: noqa: S608 - only names of columns of our own go into these texts; values are parameters
"""
How a search is to be run: by what narrows it, or along the order of its answer.

A search that matches few models is best answered by finding all of them and sorting; one that matches many by walking
through the models in the order of the answer until the page is full. Taken for the other, each costs a thousand times
more, and the planner takes one for the other when conditions depend on each other (the word "security" and the label
team=security), because it multiplies their shares. So the narrowest condition alone decides here, whatever the others
say.

How many match a word or a label is known from the planner's own statistics (most common elements, kept for a minute);
how many lie beyond a bound is counted in the index, up to the number that matters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from services.ledger.store.servers import Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.filters import (
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
from services.registry.model.searches import Search
from services.registry.store.conditions import SQL_OPS, best_of
from services.registry.store.wording import understand

# So many models are found and sorted sooner than anything else is done.
FEW = 2_000
# So many still sooner than the planner is trusted, and as far an index is counted.
SOME = 12_000
# So many when a walk has not found a page; more are never sorted.
MANY = 100_000
_KEEP_SECONDS = 60.0
# The share of models that a word or a label has which is not among the most common ones, when nothing is known.
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


class Narrowing:
    """
    Estimates for the searches of a process.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._total = 0.0
        self._shares: dict[str, Mapping[str, float]] = {}

    async def by_words(self, snapshot: Snapshot, groups: Sequence[frozenset[str]]) -> float:
        """
        About how many models have at least one lexeme of the group that fewest have.
        """
        await self._refresh(snapshot)
        return min((self._models("search", group) for group in groups), default=math.inf)

    async def by_filter(self, snapshot: Snapshot, search: Search) -> float:
        """
        About how many models meet the condition of *search* that fewest meet; infinite when no index tells.
        """
        await self._refresh(snapshot)
        needed = list(_needed(search.condition)) if search.condition is not None else []
        least = min((self._models("label_pairs", pair) for each in needed if (pair := _pair(each))), default=math.inf)
        for each in needed:
            if isinstance(each.field, Description) and each.value is not None:
                wording = await understand(snapshot, search.parent, [str(each.value)])
                least = min(least, await self.by_words(snapshot, wording.needs()))
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
    The comparisons that have to hold.
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
    Counts what an index says of a comparison; None when none says anything.
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
