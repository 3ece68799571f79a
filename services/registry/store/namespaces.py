# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Namespaces in the database.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from services.chassis.access.policies import Readable
from services.chassis.errors import AlreadyExists
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.names import ModelName, NamespaceName
from services.registry.model.namespaces import Namespace, NamespaceDraft, NamespaceUpdate, check_deletable
from services.registry.model.policies import PolicyDraft, PolicyName
from services.registry.store import rows

_GET = read(
    "namespaces.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {rows.NAMESPACE} FROM namespaces WHERE namespace_id = $1) AS found ON true
""",
)

_LIST = page_of(
    "namespaces.list",
    f"""
SELECT {rows.NAMESPACE}, octets FROM namespaces
 WHERE ($1::text IS NULL OR namespace_id > $1) AND (namespace_id = ANY($3::text[])) <> $4::boolean
 ORDER BY namespace_id LIMIT $2
""",
)

# Of two that create it, the second waits, and finds what the first has committed.
_LOCK_NAME = Statement("namespaces.lock_name", "SELECT pg_advisory_xact_lock(hashtextextended('namespace/' || $1, 0))")

# Both as of one moment: where there is no namespace, every release that its purges have scheduled is visible. '0'
# follows '/'.
_TAKEN = Statement(
    "namespaces.taken",
    """
SELECT EXISTS (SELECT FROM namespaces WHERE namespace_id = $1) AS exists,
       EXISTS (SELECT FROM unpins
                WHERE owner >= 'namespaces/' || $1 || '/' AND owner < 'namespaces/' || $1 || '0') AS is_pinned
""",
)

_CREATE = last(
    "namespaces.create",
    f"""
, made AS (
    INSERT INTO namespaces (namespace_id, display_name, description, owner, labels, max_models, max_asset_bytes,
                            create_time, update_time, revision, octets)
    SELECT $10, $11, $12, $13, $14::jsonb, $15, $16, next.moment, next.moment, value, $17 FROM next
    RETURNING {rows.NAMESPACE}
), used AS (
    INSERT INTO namespace_usage (namespace_id) SELECT namespace_id FROM made
), owned AS (
    INSERT INTO policies (key, bindings, create_time, update_time, revision, hidden_before)
    SELECT namespace_id, $18::jsonb, create_time, create_time, revision, revision FROM made WHERE $18 IS NOT NULL
    ON CONFLICT (key) DO UPDATE
       SET bindings = excluded.bindings, private = false, create_time = excluded.create_time,
           update_time = excluded.update_time, revision = excluded.revision, hidden_before = excluded.hidden_before
)
SELECT made.revision AS written, made.* FROM made
""",
)

_LOCK = Statement(
    "namespaces.lock", f"SELECT {rows.NAMESPACE} FROM namespaces WHERE namespace_id = $1 FOR NO KEY UPDATE"
)

_UPDATE = last(
    "namespaces.update",
    f"""
, made AS (
    UPDATE namespaces
       SET display_name = $11, description = $12, owner = $13, labels = $14::jsonb, max_models = $15,
           max_asset_bytes = $16, octets = $17, update_time = next.moment, revision = next.value
      FROM next
     WHERE namespace_id = $10
    RETURNING {rows.NAMESPACE}
)
SELECT made.revision AS written, made.* FROM made
""",
)

# For a deletion: a concurrent CreateModel waits, and then finds no namespace.
_LOCK_OUT = Statement(
    "namespaces.lock_out", f"SELECT {rows.NAMESPACE} FROM namespaces WHERE namespace_id = $1 FOR UPDATE"
)

_FIRST = Statement("namespaces.first_model", "SELECT model_id FROM models WHERE namespace_id = $1 LIMIT 1")

_DELETE = last(
    "namespaces.delete",
    """
, removed AS (
    DELETE FROM namespaces USING next WHERE namespace_id = $10 RETURNING next.value
)
SELECT removed.value AS written FROM removed
""",
)


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

    async def list_page(self, page: Page, readable: Readable) -> Listed[Namespace]:
        """
        A page of the namespaces that the caller may read, by name.
        """
        found = await self._database.fetch(_LIST, *after(page, 1), readable.ordered, readable.others)
        return listed(page, found, ("", ""), rows.to_namespace, lambda row: [row["namespace_id"]])

    async def create(
        self, transaction: Transaction, name: NamespaceName, draft: NamespaceDraft, policy: PolicyDraft | None
    ) -> Namespace:
        """
        Args:
            policy: that the namespace begins with; None for one without bindings.

        Raises:
            AlreadyExists: there is such a namespace, or there was one and not all of its pins are released: the readers
                of the new one would see what they pin.
        """
        await transaction.row(_LOCK_NAME, name.namespace)
        taken = await transaction.row(_TAKEN, name.namespace)
        if taken is None or taken["exists"] or taken["is_pinned"]:
            raise _taken(name)
        journal = Journal.created(name, draft.image(), subtree=True)
        bindings = None
        if policy is not None:
            image = policy.image()
            bindings = rows.packed(image["bindings"])
            own = Journal.created(PolicyName(name.namespace), image)
            journal = Journal([*journal.changes, *own.changes], [*journal.entries, *own.entries])
        try:
            written = await transaction.last(_CREATE, journal, *_columns(name, draft), bindings)
        except asyncpg.UniqueViolationError:
            raise _taken(name) from None
        return rows.to_namespace(written[0])

    async def update(self, transaction: Transaction, update: NamespaceUpdate) -> Namespace:
        """
        Raises:
            Missing: there is no such namespace.
            Aborted: it has changed since the client read it.
        """
        name = update.name
        before = await _lock(transaction, _LOCK, name)
        check_etag(name, update.etag, before.revision)
        draft = before.draft.updated(update.draft, update.paths)
        journal = Journal.updated(name, before.draft.image(), draft.image())
        return rows.to_namespace((await transaction.last(_UPDATE, journal, *_columns(name, draft)))[0])

    async def delete(self, transaction: Transaction, name: NamespaceName, etag: str) -> None:
        """
        Raises:
            Missing: there is no such namespace.
            Aborted: it has changed since the client read it.
            FailedPrecondition: it holds models, or is the one that is always there.
        """
        before = await _lock(transaction, _LOCK_OUT, name)
        check_etag(name, etag, before.revision)
        first = await transaction.row(_FIRST, name.namespace)
        check_deletable(name, ModelName(name.namespace, first["model_id"]) if first is not None else None)
        journal = Journal.of(name, ChangeKind.DELETED, before.draft.image(), None, subtree=True)
        await transaction.last(_DELETE, journal, name.namespace)


def _taken(name: NamespaceName) -> AlreadyExists:
    # One text for both, which does not tell whether there is a namespace that the caller may not see.
    return AlreadyExists(
        "NAMESPACE_EXISTS",
        str(name),
        f"{name} exists already, or was deleted a few minutes ago and its files are still being released: "
        "choose another namespace_id, or try again in some minutes",
    )


async def _lock(transaction: Transaction, statement: Statement, name: NamespaceName) -> Namespace:
    row = await transaction.row(statement, name.namespace)
    if row is None:
        raise Missing("NAMESPACE_NOT_FOUND", name)
    return rows.to_namespace(row)


def _columns(name: NamespaceName, draft: NamespaceDraft) -> list[Any]:
    return [
        name.namespace,
        draft.display_name,
        draft.description,
        draft.owner,
        rows.packed(draft.labels),
        draft.max_models,
        draft.max_asset_bytes,
        rows.octets_of(draft.display_name, draft.description, draft.owner, draft.labels),
    ]
