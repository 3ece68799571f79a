# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Finds versions by an asset that they contain (FindVersions).
"""

from __future__ import annotations

from dataclasses import replace

from services.chassis.access.policies import Readable
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.registry.model.names import NamespaceName, VersionName
from services.registry.model.versions import AssetMatch, AssetQuery
from services.registry.store.parents import NAMESPACE

_MOST_PATHS = 100

# What a version contains, when it becomes READY. A trigger does it for who does not (migration 0009).
LIST_DIGESTS = Statement(
    "versions.list_digests",
    """
INSERT INTO version_digests
SELECT model, number, digest_keys(artifacts) FROM versions WHERE model = $1 AND number = $2 ON CONFLICT DO NOTHING
""",
)

# The index has the first 64 bits; the whole digests are compared in the rows of the page alone.
_FOUND = f"""
SELECT namespace_id, model_id, model, number, create_time, found.paths,
       512 + coalesce(octet_length(array_to_string(found.paths, '')), 0) AS octets
  FROM (
    SELECT models.namespace_id, models.model_id, versions.model, versions.number, versions.create_time,
           versions.artifacts
      FROM version_digests
      JOIN versions USING (model, number)
      JOIN models ON models.id = versions.model AND models.delete_time IS NULL
     WHERE versions.state = 'READY' AND version_digests.keys @> ARRAY[('x' || left($2, 16))::bit(64)::bigint]
       AND ($1::text IS NULL OR models.namespace_id = $1)
       AND (models.namespace_id = ANY($6::text[])) <> $7::boolean
       AND ($3::bigint IS NULL OR (versions.model, versions.number) > ($3, $4::bigint))
     ORDER BY versions.model, versions.number LIMIT $5
) AS containing, LATERAL (
    SELECT ARRAY(SELECT artifact ->> 0 FROM jsonb_array_elements(containing.artifacts) AS artifact
                  WHERE artifact ->> 1 = $2 LIMIT {_MOST_PATHS}) AS paths
) AS found
 ORDER BY model, number
"""
_IN_NAMESPACE = page_of("versions.containing", _FOUND, NAMESPACE)
_ANYWHERE = page_of("versions.containing_anywhere", _FOUND)


class VersionsByAssetStore:
    """
    Finds the READY versions that contain an asset.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, wanted: AssetQuery, page: Page, readable: Readable, within: float | None
    ) -> Listed[AssetMatch]:
        """
        A page of them, by the age of their models.

        Args:
            readable: the namespaces that the caller may read.
            within: seconds that the caller has left, when that is known.

        Raises:
            Missing: there is no such namespace.
            DeadlineExceeded: it took longer than a search may.
        """
        statement = _ANYWHERE if wanted.parent is None else _IN_NAMESPACE
        namespace = None if wanted.parent is None else wanted.parent.namespace
        parameters = [namespace, wanted.sha256, *after(page, 2), readable.ordered, readable.others]
        found = await self._database.search(statement, parameters, within=within)
        missing = ("NAMESPACE_NOT_FOUND", wanted.parent or NamespaceName.nowhere())
        matches = listed(page, found, missing, _match, lambda row: [row["model"], row["number"]])
        return replace(matches, items=tuple(match for match in matches.items if match.paths))


def _match(row: Row) -> AssetMatch:
    name = VersionName(row["namespace_id"], row["model_id"], row["number"])
    return AssetMatch(name, tuple(row["paths"]), row["create_time"])
