# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Searches in the database.

Without an order of its own, a search with words has four tiers, best first: the model of exactly that name; models that
have all words in their name or display name; models that have them anywhere, as they are or stemmed; models in which
something begins with them, or in which a mistyped word is spelt as in the vocabulary. Within a tier the newest model
comes first. So a page is read in index order, and what matches half a million models costs no more than what matches
fifty: nothing is ranked that is not shown. (docs/adr/0010 compares this with ts_rank.)
"""

from __future__ import annotations

import math
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
from services.registry.store.measures import direct
from services.registry.store.narrowing import FEW, MANY, SOME, Narrowing
from services.registry.store.parents import NAMESPACE
from services.registry.store.wording import Wording, understand

_COLUMNS = {
    "name": ("models.model_id", "text"),
    "parameter_count": ("models.parameter_count", "bigint"),
    "create_time": ("models.create_time", "timestamptz"),
    "update_time": ("models.update_time", "timestamptz"),
}

# Of a search that is not narrow, so many of the newest models are looked at first: the page of one that matches a
# three-hundredth of them is full by then. How many were found says how far to go on; nobody walks farther than that.
_WINDOW = 8_000
_FARTHEST = 100_000
_TIERS = 4


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
            search = replace(asked, condition=await direct(snapshot, asked.parent, asked.condition))
            wording = await understand(snapshot, search.words) if search.words else None
            if not search.ranked:
                return await snapshot.fetch(*_ordered(search, page, wording))
            tight, loose = await self._estimates(snapshot, search, wording)
            walk: float = _WINDOW
            while 2 * tight > walk:
                found = await snapshot.fetch(*_ranked(search, page, wording, _Ways(window=int(walk))))
                count = found[0]["found_count"] or 0
                if count > page.size:
                    return found
                # As far as it seems to be to a full page, and half as far again.
                walk *= 1.5 * (page.size + 1) / count if count else math.inf
                if walk > _FARTHEST:
                    break
            return await snapshot.fetch(*_ranked(search, page, wording, _Ways(tight <= MANY, loose <= SOME)))

        found = await self._database.search_with(work, within=within)
        width = len(search.key_types)
        return listed(page, found, ("NAMESPACE_NOT_FOUND", search.parent), rows.to_model, lambda row: _key(row, width))

    async def _estimates(self, snapshot: Snapshot, search: Search, wording: Wording | None) -> tuple[float, float]:
        """
        About how many models may match, at most: in the tiers before the last one, and in the last one.
        """
        if wording is None:
            filtered = await self._narrowing.by_filter(snapshot, search)
            return filtered, filtered
        tight = await self._narrowing.by_words(snapshot, wording.whole_lexemes)
        loose = await self._narrowing.by_words(snapshot, wording.loose_lexemes)
        if max(tight, loose) > FEW:
            filtered = await self._narrowing.by_filter(snapshot, search)
            return min(tight, filtered), min(loose, filtered)
        return tight, loose


@dataclass(frozen=True, slots=True)
class _Ways:
    """
    How the models of a tier are found. As the planner likes, unless they are to be

    Args:
        tight_sorted: all found, then sorted: by an expression in place of the column, so that no index gives the order.
        loose_sorted: the same for the last tier.
        window: looked for among so many of the newest models only, and no further than the first tier that may be
            large; 0 for all models and all tiers.
    """

    tight_sorted: bool = False
    loose_sorted: bool = False
    window: int = 0

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


def _ordered(search: Search, page: Page, wording: Wording | None) -> tuple[Statement, list[Any]]:
    """
    A page in an order that was asked for.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    if wording is not None:
        where.append(f"models.search @@ {parameters.add(wording.loose, 'text')}::tsquery")
    columns = [(*_COLUMNS[key.field], key.descending) for key in search.order]
    if page.after is not None:
        where.append(sql_after(columns, page.after, parameters))
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(columns))
    found = f"""
SELECT {rows.MODEL}, models.octets{keys} FROM models
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
    own = parameters.add(search.query, "text")
    if number == 0:
        return f"models.model_id = {own}"
    texts = (wording.name, wording.whole, wording.loose)
    matches = [
        f"models.search @@ {parameters.add(text, 'text')}::tsquery" for text in texts[max(number - 2, 0) : number]
    ]
    others = f"models.model_id <> {own}"
    return f"{others} AND {matches[-1]}" + (f" AND NOT {matches[0]}" if len(matches) > 1 else "")


def _ranked(search: Search, page: Page, wording: Wording | None, ways: _Ways) -> tuple[Statement, list[Any]]:
    """
    A page of the best matches: the tiers one after the other, the newest model first. The database stops where the page
    is full.
    """
    parameters = Parameters(search.parent.namespace, page.size + 1)
    where = _where(search, parameters)
    tiers = _TIERS if wording is not None else 1
    first, newest = (int(str(part)) for part in page.after) if page.after is not None else (0, None)
    last = max(first, 1 if wording is not None else 0) + 1 if ways.window else tiers
    parts = []
    for tier in range(first, last):
        conditions = [*where, _tier(tier, search, wording, parameters)]
        after = f"models.id < {parameters.add(newest, 'bigint')}" if tier == first and newest is not None else "true"
        is_point = wording is not None and tier == 0
        source = _newest(ways.window, after) if ways.window and not is_point else "models"
        order = ways.order(is_last=tier == tiers - 1)
        parts.append(f"""
(SELECT {rows.MODEL}, models.octets, {tier} AS key_0, models.id AS key_1 FROM {source}
  WHERE {" AND ".join([*conditions, after])}
  ORDER BY {order} DESC LIMIT $2)
""")
    return page_of(
        ways.name, f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS tiers LIMIT $2", NAMESPACE
    ), parameters.values


def _newest(count: int, after: str) -> str:
    return f"""(SELECT * FROM models WHERE models.namespace_id = $1 AND models.delete_time IS NULL AND {after}
         ORDER BY models.id DESC LIMIT {count}) AS models"""


def _key(row: Row, width: int) -> list[Key]:
    return [row[f"key_{index}"] for index in range(width)]
