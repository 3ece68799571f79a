# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Namespaces in the database.
"""

from __future__ import annotations

import asyncpg

from services.chassis.errors import AlreadyExists
from services.registry.model.calls import Missing, Read
from services.registry.model.changes import Journal
from services.registry.model.names import NamespaceName
from services.registry.model.namespaces import Namespace, NamespaceDraft
from services.registry.model.pages import Listed, Page
from services.registry.store import rows
from services.registry.store.database import Database
from services.registry.store.paging import after, listed, page_of
from services.registry.store.writing import Transaction, last

_GET = f"""
SELECT revision.value AS head, found.*
  FROM revision
  LEFT JOIN (SELECT {rows.NAMESPACE} FROM namespaces WHERE namespace_id = $1) AS found ON true
"""

_LIST = page_of(f"""
SELECT {rows.NAMESPACE}, octets FROM namespaces WHERE $1::text IS NULL OR namespace_id > $1
 ORDER BY namespace_id LIMIT $2
""")

_CREATE = last(f"""
, made AS (
    INSERT INTO namespaces (namespace_id, display_name, description, owner, labels, max_models, max_asset_bytes,
                            create_time, update_time, revision, octets)
    SELECT $10, $11, $12, $13, $14::jsonb, $15, $16, now(), now(), value, $17 FROM next
    RETURNING {rows.NAMESPACE}
), used AS (
    INSERT INTO namespace_usage (namespace_id) SELECT namespace_id FROM made
)
SELECT made.revision AS written, made.* FROM made
""")


class NamespaceStore:
    """
    Reads and writes namespaces.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: NamespaceName) -> Read[Namespace]:
        """
        Raises:
            Missing: there is no such namespace.
        """
        row = await self._database.fetch_row(_GET, name.namespace)
        if row["namespace_id"] is None:
            raise Missing("NAMESPACE_NOT_FOUND", name, row["head"])
        return Read(rows.to_namespace(row), row["head"])

    async def list_page(self, page: Page) -> Listed[Namespace]:
        """
        A page of all namespaces, by name.
        """
        found = await self._database.fetch(_LIST, *after(page, 1))
        return listed(page, found, ("", ""), rows.to_namespace, lambda row: [row["namespace_id"]])

    async def create(self, transaction: Transaction, name: NamespaceName, draft: NamespaceDraft) -> Namespace:
        """
        Raises:
            AlreadyExists: there is such a namespace.
        """
        journal = Journal.created(name, draft.image(), subtree=True)
        try:
            written = await transaction.last(
                _CREATE,
                journal,
                name.namespace,
                draft.display_name,
                draft.description,
                draft.owner,
                rows.packed(draft.labels),
                draft.max_models,
                draft.max_asset_bytes,
                rows.octets_of(draft.display_name, draft.description, draft.owner, draft.labels),
            )
        except asyncpg.UniqueViolationError:
            raise AlreadyExists("NAMESPACE_EXISTS", str(name)) from None
        return rows.to_namespace(written[0])
