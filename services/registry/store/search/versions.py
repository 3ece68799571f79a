# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
SearchVersions: the SQL of searches of versions.

A namespace's versions are read along the index of the default order (`versions_by_update_time`), or where a condition
asks for a run, a source or a label, found by that and sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.ledger.model.pages import Key, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.aliases import Alias
from services.registry.model.names import AliasName, ModelName, NamespaceName
from services.registry.model.search.version_searches import FoundVersions, VersionSearch
from services.registry.model.versions import Version
from services.registry.store import rows
from services.registry.store.parents import MODEL, NAMESPACE
from services.registry.store.search.filters import Parameters, sql_after, sql_order, version_sql_of
from services.registry.store.search.fitting import ALIAS_OCTETS, fitting

_COLUMNS = {
    "update_time": ("versions.update_time", "timestamptz"),
    "create_time": ("versions.create_time", "timestamptz"),
    "model": ("versions.of_model", "text"),
    "number": ("versions.number", "bigint"),
}

_ALIASES = Statement(
    "aliases.of_versions",
    """
SELECT wanted.place, aliases.alias, aliases.version, lower(aliases.valid) AS start_time, aliases.actor, aliases.revision
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS wanted (model, number, place)
  JOIN aliases ON aliases.model = wanted.model AND upper_inf(aliases.valid) AND aliases.version = wanted.number
 ORDER BY wanted.place, aliases.alias
""",
)


class VersionSearchStore:
    """
    Finds versions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(self, search: VersionSearch, page: Page, within: float | None) -> FoundVersions:
        """
        A page of the versions that a search finds.

        Args:
            within: seconds that the caller has left, when that is known.

        Raises:
            Missing: there is no such namespace or model.
            DeadlineExceeded: it took longer than a search may.
        """
        aliases: dict[int, list[Row]] = {}

        async def work(snapshot: Snapshot) -> list[Row]:
            found = await snapshot.fetch(*_statement(search, page))
            kept = [row for row in found[: page.size] if row["number"] is not None]
            wanted = [[row["model_key"] for row in kept], [row["number"] for row in kept]]
            aliases.clear()
            for row in await snapshot.fetch(_ALIASES, wanted) if kept else ():
                aliases.setdefault(row["place"] - 1, []).append(row)
            more = [ALIAS_OCTETS * len(aliases.get(place, ())) for place in range(len(kept))]
            return fitting(found, [row["octets"] for row in kept], more)

        found = await self._database.search_with(work, within=within)
        missing = ("MODEL_NOT_FOUND" if isinstance(search.parent, ModelName) else "NAMESPACE_NOT_FOUND", search.parent)
        versions = listed(page, found, missing, lambda row: _version(row, search), lambda row: _key(row, search))
        return FoundVersions(versions, _aliases(versions.items, aliases))


def _statement(search: VersionSearch, page: Page) -> tuple[Statement, list[Any]]:
    parent = search.parent
    if isinstance(parent, NamespaceName):
        parameters, of = Parameters(parent.namespace, page.size + 1), "versions.of_namespace = $1"
        name, source = "versions.search", NAMESPACE
    else:
        parameters, of = Parameters(parent.namespace, parent.model, page.size + 1), "versions.model = parent.id"
        name, source = "versions.search_of_model", MODEL
    limit = f"${len(parameters.values)}"
    where = [of, "versions.delete_time IS NULL"]
    if search.condition is not None:
        where.append(version_sql_of(search.condition, search.namespace, parameters))
    columns = [(*_COLUMNS[each.field], each.descending) for each in search.order]
    if page.after is not None:
        where.append(sql_after(columns, page.after, parameters))
    keys = "".join(f", {column} AS key_{index}" for index, (column, _, _) in enumerate(columns))
    shown, octets = (rows.VERSION, "versions.octets") if search.artifacts else (rows.BRIEF_VERSION, rows.BRIEF_OCTETS)
    found = f"""
SELECT {shown}, versions.of_model, versions.model AS model_key, {octets} AS octets{keys}
  FROM versions JOIN models ON models.id = versions.model AND models.delete_time IS NULL
 WHERE {" AND ".join(where)}
 ORDER BY {sql_order(columns)} LIMIT {limit}
"""
    return page_of(name, found, source), parameters.values


def _version(row: Row, search: VersionSearch) -> Version:
    return rows.to_version(row, ModelName(search.namespace.namespace, row["of_model"]))


def _key(row: Row, search: VersionSearch) -> list[Key]:
    return [row[f"key_{index}"] for index in range(len(search.order))]


def _aliases(versions: Sequence[Version], found: Mapping[int, Sequence[Row]]) -> tuple[Alias, ...]:
    names = [version.name.parent for version in versions]
    return tuple(
        rows.to_alias(row, AliasName(name.namespace, name.model, row["alias"]))
        for place, name in enumerate(names)
        for row in found.get(place, ())
    )
