# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Purges large models in parts: their contents are deleted before the model, a bounded number of rows per write.

The last statement of a write blocks all other writers. Therefore a part deletes in the first half of its write, under
the lock of the model, and the last statement only updates counters and records what was deleted. Each part has its own
revision, which readers see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from services.ledger.model.calls import Write
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.ledger.store.writer import Writer
from services.registry.model.names import DeploymentName, ModelName
from services.registry.store.pin_releases import release_pins
from services.registry.store.quotas import count


@dataclass(frozen=True, slots=True)
class _Kind:
    """
    A kind of resource below a model.

    Args:
        table: where it is.
        few: as many may go with the model itself, with the revision in hand.
        most: as many go in one part.
        returning: what has to be known of those that go; empty for how many they are.
    """

    table: str
    few: int
    most: int
    returning: str = ""

    def exceeds(self, model: str) -> str:
        """
        SQL that says whether there are more than few of them.

        Args:
            model: SQL of the model's key.
        """
        some = f"SELECT FROM {self.table} WHERE model = {model} LIMIT {self.few + 1}"
        return f"(SELECT count(*) FROM ({some})) > {self.few}"

    @property
    def part(self) -> Statement:
        """
        Deletes some of them. No concurrent writes: the model is locked and read-only.
        """
        # Of histories the service's role may delete no row, but for a model that is purged (migration 0006).
        sql = f"SELECT purge_part('{self.table}', $1, {self.most}) AS count"
        if self.returning:
            some = f"SELECT ctid FROM {self.table} WHERE model = $1 LIMIT {self.most}"
            sql = f"DELETE FROM {self.table} WHERE ctid = ANY (ARRAY({some})) RETURNING 1 AS count, {self.returning}"
        return Statement(f"{self.table}.purge", sql)


# In this order: each deployment needs a change event, so none may be deleted with a version; the others go with their
# versions, which must not be too many. A card or the list of a version's artifacts may have a megabyte.
_KINDS = (
    _Kind("evaluations", few=1000, most=10_000),
    _Kind("aliases", few=1000, most=10_000),
    _Kind("cards", few=50, most=100),
    _Kind("deployments", few=100, most=1000, returning="deployment_id"),
    _Kind(
        "versions", few=50, most=100, returning="number, CASE WHEN state <> 'FAILED' THEN size_bytes ELSE 0 END AS size"
    ),
)
#: What takes a part of what is below a model, by table.
PARTS = {kind.table: kind.part for kind in _KINDS}

_FIND = Statement(
    "models.find_large",
    f"""
SELECT found.id
  FROM (SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NOT NULL) AS found
 WHERE {" OR ".join(kind.exceeds("found.id") for kind in _KINDS)}
""",
)

_LOCK = Statement(
    "models.lock_to_purge",
    """
SELECT namespace_id, model_id, purge_started OR purge_time <= now() AS is_due FROM models
 WHERE id = $1 AND delete_time IS NOT NULL FOR NO KEY UPDATE
""",
)

_MOST = Statement(
    "models.what_is_large",
    "SELECT " + ", ".join(f"{kind.exceeds('$1')} AS {kind.table}" for kind in _KINDS),
)

# The process may die before it is done: from now on any process may continue.
_PART = last(
    "models.purge_part",
    f"""
, made AS (
    UPDATE models
       SET purge_started = true, purge_time = least(purge_time, next.moment), update_time = next.moment,
           revision = next.value
      FROM next
     WHERE id = $10
)
{count("$11", "0", "-$12::bigint")}
{release_pins("SELECT $13::text || '/versions/' || number AS owner FROM unnest($14::bigint[]) AS number")}
SELECT next.value AS written FROM next, used
""",
)


class Purging:
    """
    Deletes the contents of large deleted models.

    Args:
        database: where they are.
        writer: does the writes.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database, self._writer = database, writer

    async def find(self, name: ModelName) -> int | None:
        """
        The key of a deleted model that is too large to be purged in one write; None when there is none of this name.
        """
        rows = await self._database.fetch(_FIND, name.namespace, name.model)
        return rows[0]["id"] if rows else None

    async def empty(self, key: int, write: Write, *, due: bool = False) -> None:
        """
        Delete the contents of a model until it can be purged in one write.

        Args:
            key: of the model: another one of its name is left alone.
            write: who does this; each part is a write of its own.
            due: only if the model's purge time has passed.
        """
        part = replace(write, request_id="", trace=write.request_id or write.trace)
        work = partial(self._part, key=key, due=due)
        # By itself: it locks the model for longer than others should wait.
        while (await self._writer.run(part, work, lambda _: b"", None)).value:
            pass

    async def _part(self, transaction: Transaction, key: int, *, due: bool) -> bool:
        row = await transaction.row(_LOCK, key)
        table = None
        # Undeleted meanwhile, or purged by another process: nothing to do.
        if row is not None and (row["is_due"] or not due):
            large = await transaction.row(_MOST, key)
            table = next((name for name, is_large in (large or {}).items() if is_large), None)
        if row is None or table is None:
            await transaction.nothing()
            return False
        removed = {"deployments": await transaction.rows(PARTS["deployments"], key)} if table == "versions" else {}
        removed[table] = await transaction.rows(PARTS[table], key)
        name = ModelName(row["namespace_id"], row["model_id"])
        versions = removed.get("versions", [])
        size = sum(each["size"] for each in versions)
        numbers = [each["number"] for each in versions]
        await transaction.last(_PART, _journal(name, removed), key, name.namespace, size, str(name), numbers)
        return True


def deployments_deleted(name: ModelName, ids: Sequence[str]) -> Journal:
    """
    The journal of deployments that go with their model.
    """
    names = [str(DeploymentName(name.namespace, each)) for each in ids]
    return Journal(
        [Change(each, ChangeKind.DELETED) for each in names],
        [Entry(each, {"model": str(name)}, None) for each in names],
    )


def _journal(name: ModelName, removed: dict[str, list[Row]]) -> Journal:
    more = deployments_deleted(name, [row["deployment_id"] for row in removed.get("deployments", ())])
    counts = {table: sum(row["count"] for row in rows) for table, rows in removed.items() if rows}
    return Journal(
        [Change(str(name), ChangeKind.UPDATED, subtree=True), *more.changes],
        [Entry(str(name), {"purged": counts}, None), *more.entries],
    )
