# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
SearchModels: the SQL of searches.

Without `order_by`, a search with words has tiers, best first: the model of exactly that name; models whose
names begin with the query, by name; models that have all words in their name or display name; models that have them
anywhere, as they are or stemmed; models in which something begins with them. Within a tier (but the second) the newest
model comes first. So a page is read in index order, and what matches half a million models costs no more than what
matches fifty: nothing is ranked that is not shown. (docs/adr/0010 compares this with ts_rank.)

When no model has the words, those are found that have words which are spelt nearly like them (docs/adr/0034).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.ledger.model.pages import Key, Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.models import Model
from services.registry.model.search.searches import Search
from services.registry.store import rows
from services.registry.store.evaluation_metrics import resolve_directions, resolve_order_directions
from services.registry.store.full_models import More, more_of, with_more
from services.registry.store.parents import NAMESPACE
from services.registry.store.search.filters import Parameters, sql_after, sql_of, sql_order
from services.registry.store.search.fitting import fitting
from services.registry.store.search.score_order import by_score, columns_of
from services.registry.store.search.selectivity import FEW, MANY, SOME, SelectivityEstimator
from services.registry.store.search.words import SearchTerms, add_corrections, look_up_terms

# An unselective search scans so many of the newest models first: that fills the page of a search that matches one in
# three hundred. The number of matches tells how far to scan, up to a limit.
_WINDOW = 8_000
_FARTHEST = 100_000

# The tiers by the numbers that page tokens have for them, which stay as they are, and their order.
_EXACT, _NAME, _WHOLE, _LOOSE, _BEGINS, _CORRECTED = range(6)
_TIERS = (_EXACT, _BEGINS, _NAME, _WHOLE, _LOOSE)
# Those that are one model, or read in an index of their own: they are not looked for among the newest models.
_POINTS = (_EXACT, _BEGINS)

_ANY = "SELECT FROM models WHERE namespace_id = $1 AND delete_time IS NULL AND search @@ $2::text::tsquery"
_HAS_WORDS = Statement("models.has_words", f"SELECT EXISTS ({_ANY}) AS found")


class SearchStore:
    """
    Finds models.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._selectivity = SelectivityEstimator()

    async def search(self, search: Search, page: Page, within: float | None) -> Listed[Model]:
        """
        A page of the models that a search finds.

        Args:
            within: seconds that the caller has left, when that is known.

        Raises:
            Missing: there is no such namespace.
            DeadlineExceeded: it took longer than a search may.
        """

        asked = search
        more: dict[str, More] = {}

        async def work(snapshot: Snapshot) -> list[Row]:
            found = await ranked(snapshot)
            kept = [row for row in found[: page.size] if row["model_id"] is not None]
            if not (asked.full and kept):
                return found
            more.clear()
            more.update(await more_of(snapshot, asked.parent, [row["model_id"] for row in kept]))
            return fitting(found, [row["octets"] for row in kept], [more[row["model_id"]].octets for row in kept])

        async def ranked(snapshot: Snapshot) -> list[Row]:
            nonlocal search
            condition = await resolve_directions(snapshot, asked.parent, asked.condition)
            search = replace(
                asked, condition=condition, order=await resolve_order_directions(snapshot, asked.parent, asked.order)
            )
            if not search.words:
                return await self._page(snapshot, search, page, None)
            terms = await look_up_terms(snapshot, search.parent, search.words)
            corrected = page.after is not None and search.is_corrected(page.after)
            if not corrected:
                found = await self._page(snapshot, search, page, terms)
                if page.after is not None or found[0]["found_count"] is not None:
                    return found
            terms = await add_corrections(snapshot, search.parent, terms)
            if not corrected and (not terms.has_corrections or await _are_there(snapshot, search, terms)):
                return found
            return await self._page(snapshot, search, page, terms, corrected=True)

        found = await self._database.search_with(work, within=within)
        missing = ("NAMESPACE_NOT_FOUND", search.parent)
        return listed(
            page, found, missing, lambda row: with_more(rows.to_model(row), more), lambda row: _key(row, search)
        )

    async def _page(
        self, snapshot: Snapshot, search: Search, page: Page, terms: SearchTerms | None, *, corrected: bool = False
    ) -> list[Row]:
        if not search.ranked:
            return await snapshot.fetch(*_ordered(search, page, terms, corrected=corrected))
        tight, loose = await self._estimates(snapshot, search, terms, corrected)
        walk: float = _WINDOW
        while 2 * tight > walk:
            plan = _Plan(window=int(walk), corrected=corrected)
            found = await snapshot.fetch(*_ranked(search, page, terms, plan))
            count = found[0]["found_count"] or 0
            if count > page.size:
                return found
            # As far as it seems to be to a full page, and half as far again.
            walk *= 1.5 * (page.size + 1) / count if count else math.inf
            if walk > _FARTHEST:
                break
        plan = _Plan(tight <= MANY, loose <= SOME, corrected=corrected)
        return await snapshot.fetch(*_ranked(search, page, terms, plan))

    async def _estimates(
        self,
        snapshot: Snapshot,
        search: Search,
        terms: SearchTerms | None,
        corrected: bool,
        /,
    ) -> tuple[float, float]:
        """
        About how many models may match, at most: in the tiers before the last one, and in the last one.
        """
        if terms is None:
            filtered = await self._selectivity.by_filter(snapshot, search)
            return filtered, filtered
        loose = await self._selectivity.by_words(snapshot, terms.needs(loose=True, corrected=corrected))
        tight = loose if corrected else await self._selectivity.by_words(snapshot, terms.needs())
        if max(tight, loose) > FEW:
            filtered = await self._selectivity.by_filter(snapshot, search)
            return min(tight, filtered), min(loose, filtered)
        return tight, loose


async def _are_there(snapshot: Snapshot, search: Search, terms: SearchTerms) -> bool:
    """
    Whether models have the words and only the filter excludes them: then no word is a typo.
    """
    if search.condition is None:
        return False
    found = await snapshot.fetch(_HAS_WORDS, [search.parent.namespace, terms.loose])
    return bool(found[0]["found"])


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    How the models of a tier are found. As the planner likes, unless they are to be

    Args:
        tight_sorted: all found, then sorted: by an expression in place of the column, so that no index gives the order.
        loose_sorted: the same for the last tier.
        window: looked for among so many of the newest models only, and no further than the first tier that may be
            large; 0 for all models and all tiers.
        corrected: the only tier is what is spelt nearly like the words.
    """

    tight_sorted: bool = False
    loose_sorted: bool = False
    window: int = 0
    corrected: bool = False

    def tiers(self, terms: SearchTerms | None, first: int | None) -> tuple[int, ...]:
        """
        The tiers from *first* onwards.
        """
        if terms is None:
            return (_EXACT,)
        if self.corrected:
            return (_CORRECTED,)
        begin = _TIERS.index(first) if first is not None else 0
        return _TIERS[begin : max(begin, _TIERS.index(_NAME)) + 1 if self.window else None]

    def order(self, *, is_last: bool) -> str:
        return "models.id + 0" if (self.loose_sorted if is_last else self.tight_sorted) else "models.id"

    @property
    def name(self) -> str:
        if self.window:
            return "models.search_window"
        return "models.search_sorted" if self.tight_sorted else "models.search"


def _where(search: Search, parameters: Parameters) -> list[str]:
    where = ["models.namespace_id = $1", "models.delete_time IS NULL"]
    if search.condition is not None:
        where.append(sql_of(search.condition, search.parent, parameters))
    return where


def _ordered(search: Search, page: Page, terms: SearchTerms | None, *, corrected: bool) -> tuple[Statement, list[Any]]:
    """
    A page in the requested order.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    if terms is not None:
        words = terms.corrected if corrected else terms.loose
        where.append(f"models.search @@ {parameters.add(words, 'text')}::tsquery")
    if search.order[0].score is not None:
        return by_score(search.order[0].score, search, page, where, parameters, corrected=corrected)
    columns = columns_of(search.order)
    if page.after is not None:
        where.append(sql_after(columns, page.after[: len(columns)], parameters))
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(columns))
    found = f"""
SELECT {rows.MODEL}, models.octets{keys}, {corrected} AS is_corrected FROM models
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT $2
"""
    return page_of("models.search_ordered", found, NAMESPACE), parameters.values


def _tier(number: int, search: Search, terms: SearchTerms | None, parameters: Parameters) -> str:
    """
    What belongs to a tier; no model belongs to two.
    """
    if terms is None:
        return "true"
    if number == _CORRECTED:
        return _match(terms.corrected, parameters)
    if number == _EXACT:
        return f"models.model_id = {parameters.add(search.query, 'text')}"
    begins = parameters.add(search.query.lower(), "text")
    if number == _BEGINS:
        # A range of the index; an empty one for what no name can have in it.
        return f"""lower(models.model_id) >= {begins} COLLATE "C"
               AND lower(models.model_id) < {begins} || chr(1114111) COLLATE "C"
               AND models.model_id <> {parameters.add(search.query, "text")}"""
    others = f"NOT starts_with(lower(models.model_id), {begins})"
    match number:
        case 1:  # _NAME
            return f"{others} AND {_match(terms.name, parameters)}"
        case 2:  # _WHOLE
            return f"{others} AND {_match(terms.whole, parameters)} AND NOT {_match(terms.name, parameters)}"
        case _:
            return f"{others} AND {_match(terms.loose, parameters)} AND NOT {_match(terms.whole, parameters)}"


def _match(query: str, parameters: Parameters) -> str:
    return f"models.search @@ {parameters.add(query, 'text')}::tsquery"


def _ranked(search: Search, page: Page, terms: SearchTerms | None, plan: _Plan) -> tuple[Statement, list[Any]]:
    """
    A page of the best matches: the tiers one after the other, the newest model first. The database stops where the page
    is full.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    first = int(str(page.after[0])) if page.after is not None else None
    parts = []
    for tier in plan.tiers(terms, first):
        after = _after(tier, page.after, parameters) if tier == first else "true"
        is_point = terms is not None and tier in _POINTS
        source = _newest(plan.window, after) if plan.window and not is_point else "models"
        order = f"{plan.order(is_last=tier in (_LOOSE, _CORRECTED))} DESC"
        if terms is not None and tier == _BEGINS:
            order = "lower(models.model_id), models.model_id"
        parts.append(f"""
(SELECT {rows.MODEL}, models.octets, {tier} AS key_0, models.id AS key_1 FROM {source}
  WHERE {" AND ".join([*where, _tier(tier, search, terms, parameters), after])}
  ORDER BY {order} LIMIT $2)
""")
    return page_of(
        plan.name, f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS tiers LIMIT $2", NAMESPACE
    ), parameters.values


def _after(tier: int, key: Sequence[Key] | None, parameters: Parameters) -> str:
    """
    What comes after the last model of the page before, within its tier.
    """
    if key is None:
        return "true"
    if tier == _BEGINS:
        columns = [("lower(models.model_id)", "text", False), ("models.model_id", "text", False)]
        return sql_after(columns, [str(key[2]).lower(), key[2]], parameters)
    return f"models.id < {parameters.add(int(str(key[1])), 'bigint')}"


def _newest(count: int, after: str) -> str:
    return f"""(SELECT * FROM models WHERE models.namespace_id = $1 AND models.delete_time IS NULL AND {after}
         ORDER BY models.id DESC LIMIT {count}) AS models"""


def _key(row: Row, search: Search) -> list[Key]:
    """
    The sort key of a row: as an earlier release has it, as long as that says enough.
    """
    if search.ranked:
        key = [row["key_0"], row["key_1"]]
        return [*key, row["model_id"]] if search.words and row["key_0"] == _BEGINS else key
    key = [row[f"key_{index}"] for index in range(len(search.order))]
    return [*key, 1] if row["is_corrected"] else key
