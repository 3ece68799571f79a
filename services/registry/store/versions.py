# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Versions in the database.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from services.chassis.errors import Aborted, FailedPrecondition
from services.registry.model.calls import Missing, Read
from services.registry.model.changes import Image, Journal
from services.registry.model.names import ModelName, VersionName
from services.registry.model.pages import Listed, Page
from services.registry.model.versions import Version, VersionDraft, VersionState
from services.registry.store import rows
from services.registry.store.database import Database
from services.registry.store.paging import MODEL, after, listed, page_of
from services.registry.store.writing import Transaction, last

_GET = f"""
SELECT revision.value AS head, found.*
  FROM revision
  LEFT JOIN (SELECT {rows.VERSION} FROM models JOIN versions ON versions.model = models.id
              WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $3) AS found ON true
"""

_LIST = page_of(
    f"""
SELECT {rows.VERSION}, octets FROM versions
 WHERE model = parent.id AND ($3::bigint IS NULL OR number < $3)
 ORDER BY number DESC LIMIT $4
""",
    parent=MODEL,
)

# Numbers have no gaps: the row stays locked until this version is committed, and a rollback takes the number back.
_NUMBER = """
UPDATE models SET latest_version = latest_version + 1
 WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL
RETURNING id, latest_version
"""

_EXISTS = """
SELECT true FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $3
"""

_CREATE = last(f"""
, made AS (
    INSERT INTO versions (model, number, state, description, artifacts, parent_version, training_data, run, git_commit,
                          stage, labels, size_bytes, create_time, update_time, revision, octets)
    SELECT $10, $11, 'PENDING', $12, $13::jsonb, $14, $15::text[], $16, $17, $18, $19::jsonb, $20, now(), now(), value,
           $21
      FROM next
    RETURNING {rows.VERSION}
)
SELECT made.revision AS written, made.* FROM made
""")

# The model first, as every writer below it: a purge locks it, too, and then nobody waits for a row with the revision
# in hand.
_LOCK = f"""
WITH model AS (
    SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL FOR KEY SHARE
)
SELECT versions.model, {rows.VERSION} FROM model JOIN versions ON versions.model = model.id
 WHERE versions.number = $3 FOR NO KEY UPDATE OF versions
"""

_FINALIZE = last(f"""
, made AS (
    UPDATE versions SET state = 'READY', update_time = now(), revision = next.value FROM next
     WHERE model = $10 AND number = $11
    RETURNING {rows.VERSION}
)
SELECT made.revision AS written, made.* FROM made
""")


class VersionStore:
    """
    Reads and writes versions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: VersionName) -> Read[Version]:
        """
        Raises:
            Missing: there is no such version.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.model, name.number)
        if row["number"] is None:
            raise Missing("VERSION_NOT_FOUND", name, row["head"])
        return Read(rows.to_version(row, name.parent), row["head"])

    async def list_page(self, parent: ModelName, page: Page) -> Listed[Version]:
        """
        A page of the versions of a model, the newest first.

        Raises:
            Missing: there is no such model.
        """
        found = await self._database.fetch(_LIST, parent.namespace, parent.model, *after(page, 1))
        missing = ("MODEL_NOT_FOUND", parent)
        return listed(page, found, missing, lambda row: rows.to_version(row, parent), lambda row: [row["number"]])

    async def create(self, transaction: Transaction, parent: ModelName, draft: VersionDraft) -> Version:
        """
        Add the next version of *parent*, in state PENDING.

        Raises:
            Missing: there is no such model, or no such parent version.
        """
        model = await transaction.row(_NUMBER, parent.namespace, parent.model)
        if model is None:
            raise Missing("MODEL_NOT_FOUND", parent)
        await check_parent_version(transaction, draft)
        name = VersionName(parent.namespace, parent.model, model["latest_version"])
        journal = Journal.created(name, {"state": VersionState.PENDING, **draft.image()})
        row = (await transaction.last(_CREATE, journal, model["id"], name.number, *_columns(name, draft)))[0]
        return rows.to_version(row, parent)

    async def finalize(self, transaction: Transaction, checked: Version) -> Version:
        """
        Make a version READY whose artifacts have been verified.

        Args:
            checked: the version as it was when they were.

        Raises:
            Missing: there is no such version any more.
            FailedPrecondition: it is FAILED.
            Aborted: it has changed since.
        """
        name = checked.name
        row = await transaction.row(_LOCK, name.namespace, name.model, name.number)
        if row is None:
            raise Missing("VERSION_NOT_FOUND", name)
        version = rows.to_version(row, name.parent)
        check_not_failed(version)
        if version.state is VersionState.READY:
            await transaction.nothing()
            return version
        if version.revision != checked.revision:
            raise Aborted("VERSION_CHANGED", f"{name} changed while its artifacts were being verified: retry")
        journal = Journal.updated(name, _state(version.state), _state(VersionState.READY))
        return rows.to_version((await transaction.last(_FINALIZE, journal, row["model"], name.number))[0], name.parent)


def check_not_failed(version: Version) -> None:
    """
    Raises:
        FailedPrecondition: *version* is FAILED.
    """
    if version.state is VersionState.FAILED:
        raise FailedPrecondition(
            "VERSION_FAILED",
            f"{version.name} has failed ({version.failure}): create another version",
            metadata={"resource": str(version.name)},
        )


async def check_parent_version(transaction: Transaction, draft: VersionDraft) -> None:
    """
    Raises:
        Missing: the version that *draft* was trained from does not exist.
    """
    if not draft.lineage.parent_version:
        return
    parent = VersionName.parse(draft.lineage.parent_version)
    if await transaction.row(_EXISTS, parent.namespace, parent.model, parent.number) is None:
        raise Missing("VERSION_NOT_FOUND", parent)


def _columns(name: VersionName, draft: VersionDraft) -> list[Any]:
    lineage = draft.lineage
    artifacts = rows.packed_artifacts(draft)
    octets = rows.octets_of(str(name), draft.description, artifacts, draft.labels, asdict(lineage))
    return [
        draft.description,
        artifacts,
        lineage.parent_version,
        list(lineage.training_data),
        lineage.run,
        lineage.git_commit,
        draft.stage,
        rows.packed(draft.labels),
        draft.size_bytes,
        octets,
    ]


def _state(state: VersionState) -> Image:
    return {"state": state}
