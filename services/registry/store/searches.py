# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Searches in the database.

Without an order of its own, a search with words has tiers, best first: the model of exactly that name; models whose
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
from services.registry.model.searches import Search
from services.registry.store import rows
from services.registry.store.conditions import Parameters, sql_after, sql_of, sql_order
from services.registry.store.measures import direct, direct_order
from services.registry.store.narrowing import FEW, MANY, SOME, Narrowing
from services.registry.store.parents import NAMESPACE
from services.registry.store.score_orders import by_score, columns_of
from services.registry.store.wording import Wording, mend, understand

# Of a search that is not narrow, so many of the newest models are looked at first: the page of one that matches a
# three-hundredth of them is full by then. How many were found says how far to go on; nobody walks farther than that.
_WINDOW = 8_000
_FARTHEST = 100_000

# The tiers by the numbers that page tokens have for them, which stay as they are, and their order.
_EXACT, _NAME, _WHOLE, _LOOSE, _BEGINS, _MENDED = range(6)
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
        self._narrowing = Narrowing()

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

        async def work(snapshot: Snapshot) -> list[Row]:
            nonlocal search
            condition = await direct(snapshot, asked.parent, asked.condition)
            search = replace(asked, condition=condition, order=await direct_order(snapshot, asked.parent, asked.order))
            if not search.words:
                return await self._page(snapshot, search, page, None)
            wording = await understand(snapshot, search.parent, search.words)
            mended = page.after is not None and search.is_mended(page.after)
            if not mended:
                found = await self._page(snapshot, search, page, wording)
                if page.after is not None or found[0]["found_count"] is not None:
                    return found
            wording = await mend(snapshot, search.parent, wording)
            if not mended and (not wording.mends or await _are_there(snapshot, search, wording)):
                return found
            return await self._page(snapshot, search, page, wording, mended=True)

        found = await self._database.search_with(work, within=within)
        missing = ("NAMESPACE_NOT_FOUND", search.parent)
        return listed(page, found, missing, rows.to_model, lambda row: _key(row, search))

    async def _page(
        self, snapshot: Snapshot, search: Search, page: Page, wording: Wording | None, *, mended: bool = False
    ) -> list[Row]:
        if not search.ranked:
            return await snapshot.fetch(*_ordered(search, page, wording, mended=mended))
        tight, loose = await self._estimates(snapshot, search, wording, mended)
        walk: float = _WINDOW
        while 2 * tight > walk:
            ways = _Ways(window=int(walk), mended=mended)
            found = await snapshot.fetch(*_ranked(search, page, wording, ways))
            count = found[0]["found_count"] or 0
            if count > page.size:
                return found
            # As far as it seems to be to a full page, and half as far again.
            walk *= 1.5 * (page.size + 1) / count if count else math.inf
            if walk > _FARTHEST:
                break
        ways = _Ways(tight <= MANY, loose <= SOME, mended=mended)
        return await snapshot.fetch(*_ranked(search, page, wording, ways))

    async def _estimates(
        self,
        snapshot: Snapshot,
        search: Search,
        wording: Wording | None,
        mended: bool,
        /,
    ) -> tuple[float, float]:
        """
        About how many models may match, at most: in the tiers before the last one, and in the last one.
        """
        if wording is None:
            filtered = await self._narrowing.by_filter(snapshot, search)
            return filtered, filtered
        loose = await self._narrowing.by_words(snapshot, wording.needs(loose=True, mended=mended))
        tight = loose if mended else await self._narrowing.by_words(snapshot, wording.needs())
        if max(tight, loose) > FEW:
            filtered = await self._narrowing.by_filter(snapshot, search)
            return min(tight, filtered), min(loose, filtered)
        return tight, loose


async def _are_there(snapshot: Snapshot, search: Search, wording: Wording) -> bool:
    """
    Whether models have the words and only the filter keeps them out: then no word is mistyped.
    """
    if search.condition is None:
        return False
    found = await snapshot.fetch(_HAS_WORDS, [search.parent.namespace, wording.loose])
    return bool(found[0]["found"])


@dataclass(frozen=True, slots=True)
class _Ways:
    """
    How the models of a tier are found. As the planner likes, unless they are to be

    Args:
        tight_sorted: all found, then sorted: by an expression in place of the column, so that no index gives the order.
        loose_sorted: the same for the last tier.
        window: looked for among so many of the newest models only, and no further than the first tier that may be
            large; 0 for all models and all tiers.
        mended: the only tier is what is spelt nearly like the words.
    """

    tight_sorted: bool = False
    loose_sorted: bool = False
    window: int = 0
    mended: bool = False

    def tiers(self, wording: Wording | None, first: int | None) -> tuple[int, ...]:
        """
        The tiers from *first* on.
        """
        if wording is None:
            return (_EXACT,)
        if self.mended:
            return (_MENDED,)
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


def _ordered(search: Search, page: Page, wording: Wording | None, *, mended: bool) -> tuple[Statement, list[Any]]:
    """
    A page in an order that was asked for.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    if wording is not None:
        words = wording.mended if mended else wording.loose
        where.append(f"models.search @@ {parameters.add(words, 'text')}::tsquery")
    if search.order[0].score is not None:
        return by_score(search.order[0].score, search, page, where, parameters, mended=mended)
    columns = columns_of(search.order)
    if page.after is not None:
        where.append(sql_after(columns, page.after[: len(columns)], parameters))
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(columns))
    found = f"""
SELECT {rows.MODEL}, models.octets{keys}, {mended} AS is_mended FROM models
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT $2
"""
    return page_of("models.search_ordered", found, NAMESPACE), parameters.values


def _tier(number: int, search: Search, wording: Wording | None, parameters: Parameters) -> str:
    """
    What belongs to a tier; no model belongs to two.
    """
    if wording is None:
        return "true"
    if number == _MENDED:
        return _match(wording.mended, parameters)
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
            return f"{others} AND {_match(wording.name, parameters)}"
        case 2:  # _WHOLE
            return f"{others} AND {_match(wording.whole, parameters)} AND NOT {_match(wording.name, parameters)}"
        case _:
            return f"{others} AND {_match(wording.loose, parameters)} AND NOT {_match(wording.whole, parameters)}"


def _match(query: str, parameters: Parameters) -> str:
    return f"models.search @@ {parameters.add(query, 'text')}::tsquery"


def _ranked(search: Search, page: Page, wording: Wording | None, ways: _Ways) -> tuple[Statement, list[Any]]:
    """
    A page of the best matches: the tiers one after the other, the newest model first. The database stops where the page
    is full.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    first = int(str(page.after[0])) if page.after is not None else None
    parts = []
    for tier in ways.tiers(wording, first):
        after = _after(tier, page.after, parameters) if tier == first else "true"
        is_point = wording is not None and tier in _POINTS
        source = _newest(ways.window, after) if ways.window and not is_point else "models"
        order = f"{ways.order(is_last=tier in (_LOOSE, _MENDED))} DESC"
        if wording is not None and tier == _BEGINS:
            order = "lower(models.model_id), models.model_id"
        parts.append(f"""
(SELECT {rows.MODEL}, models.octets, {tier} AS key_0, models.id AS key_1 FROM {source}
  WHERE {" AND ".join([*where, _tier(tier, search, wording, parameters), after])}
  ORDER BY {order} LIMIT $2)
""")
    return page_of(
        ways.name, f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS tiers LIMIT $2", NAMESPACE
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
    return [*key, 1] if row["is_mended"] else key
