# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Policies in the database.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime

from services.chassis.access.policies import REGISTRY, Bindings, Policies
from services.chassis.access.roles import Role
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import Journal
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.names import NamespaceName
from services.registry.model.policies import Policy, PolicyDraft, PolicyName
from services.registry.store import rows

_COLUMNS = "policies.key, policies.bindings, policies.private, policies.create_time, policies.update_time"

_GET = read(
    "policies.get",
    f"""
SELECT revision.value AS head, $1 = '' OR EXISTS (SELECT FROM namespaces WHERE namespace_id = $1) AS has_parent,
       {_COLUMNS}, policies.revision
  FROM {HEAD}
  LEFT JOIN policies ON policies.key = $1
""",
)

# Not by a replica: who was revoked must not be let in by a lagging one.
_LOAD = Statement(
    "policies.load",
    f"""
SELECT revision.value AS head, {_COLUMNS}, policies.hidden_before
  FROM {HEAD}
  LEFT JOIN policies ON $1::text[] IS NULL OR policies.key = ANY($1)
""",
)

# Conflicts with _SHARE_PARENT: where there is no policy yet, there is no row of one to lock.
_LOCK_PARENT = Statement(
    "policies.lock_parent", "SELECT namespace_id FROM namespaces WHERE namespace_id = $1 FOR NO KEY UPDATE"
)
_SHARE_PARENT = Statement(
    "policies.share_parent", "SELECT namespace_id FROM namespaces WHERE namespace_id = $1 FOR SHARE"
)
# Two writers of a policy that has no row yet would both find none.
_LOCK = Statement("policies.lock_key", "SELECT pg_advisory_xact_lock(hashtextextended('policy/' || $1, 0))")
_CURRENT = Statement(
    "policies.lock", f"SELECT {_COLUMNS}, policies.revision FROM policies WHERE key = $1 FOR NO KEY UPDATE"
)

_SHARE = Statement(
    "policies.share", f"SELECT {_COLUMNS} FROM policies WHERE key = ANY($1::text[]) ORDER BY key FOR SHARE"
)

_SET = last(
    "policies.set",
    f"""
, made AS (
    INSERT INTO policies (key, bindings, private, create_time, update_time, revision)
    SELECT $10, $11::jsonb, $12::boolean, next.moment, next.moment, next.value FROM next
    ON CONFLICT (key) DO UPDATE
       SET bindings = excluded.bindings, private = excluded.private, update_time = excluded.update_time,
           revision = excluded.revision
    RETURNING {_COLUMNS}, policies.revision
)
SELECT made.revision AS written, made.* FROM made
""",
)


class PolicyStore:
    """
    Reads and writes policies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: PolicyName) -> Read[Policy]:
        """
        Raises:
            Missing: there is no such namespace.
        """
        row = await self._database.fetch_row(_GET, name.namespace)
        if not row["has_parent"]:
            raise Missing("NAMESPACE_NOT_FOUND", name.parent, row["head"])
        return Read(_policy(name, row), row["head"])

    async def load(self, namespaces: Collection[str] | None = None) -> tuple[Mapping[str, Bindings], int]:
        """
        Policies by the ids of their namespaces, as decisions need them, and the revision that they are of. That of a
        deleted namespace binds nobody.

        Args:
            namespaces: whose policies; None for all.
        """
        found = await self._database.fetch(_LOAD, None if namespaces is None else sorted(namespaces))
        policies = {row["key"]: _draft(row).bindings(row["hidden_before"]) for row in found if row["key"] is not None}
        return policies, found[0]["head"]

    async def set(self, transaction: Transaction, name: PolicyName, draft: PolicyDraft, etag: str) -> Policy:
        """
        Replace a policy.

        Args:
            etag: of the policy that the client read; empty when it does not care.

        Raises:
            Missing: there is no such namespace.
            Aborted: it has changed since the client read it.
        """
        if name.namespace and await transaction.row(_LOCK_PARENT, name.namespace) is None:
            raise Missing("NAMESPACE_NOT_FOUND", NamespaceName(name.namespace))
        await transaction.row(_LOCK, name.namespace)
        row = await transaction.row(_CURRENT, name.namespace)
        before = Policy(name, PolicyDraft(), None, None, 0) if row is None else _policy(name, row)
        if etag != before.etag:
            check_etag(name, etag, before.revision)
        journal = Journal.updated(name, before.draft.image(), draft.image())
        image = draft.image()
        made = await transaction.last(_SET, journal, name.namespace, rows.packed(image["bindings"]), draft.private)
        return _policy(name, made[0])


async def policies_now(transaction: Transaction, namespace: str) -> Policies:
    """
    The policies that decide in one namespace, as they are until the transaction ends.
    """
    await transaction.row(_SHARE_PARENT, namespace)
    found = await transaction.rows(_SHARE, [REGISTRY, namespace])
    policies = Policies(bound=float("inf"))
    policies.apply({row["key"]: _draft(row).bindings() for row in found}, complete=True)
    return policies


def _policy(name: PolicyName, row: Row) -> Policy:
    made: datetime | None = row["create_time"]
    if made is None:
        return Policy(name, PolicyDraft(), None, None, 0)
    return Policy(name, _draft(row), made, row["update_time"], row["revision"])


def _draft(row: Row) -> PolicyDraft:
    bindings = json.loads(row["bindings"])
    return PolicyDraft({Role[role.upper()]: tuple(members) for role, members in bindings.items()}, row["private"])
