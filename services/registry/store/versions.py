# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Versions in the database.
"""

from __future__ import annotations

from typing import Any

from services.chassis.errors import Aborted
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import Image, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.names import AliasName, ModelName, VersionName
from services.registry.model.oci import OciRecord
from services.registry.model.references import Reference
from services.registry.model.versions import (
    Version,
    VersionDraft,
    VersionState,
    VersionUpdate,
    check_mutable,
    check_not_failed,
    check_not_ready,
    check_ready,
    lineage_cycle,
    no_ready_version,
    no_version,
    version_deleted,
)
from services.registry.store import rows
from services.registry.store.locks import lock_model
from services.registry.store.oci import recorded
from services.registry.store.parents import MODEL
from services.registry.store.pin_releases import check_claim, release_pins, retain_pins
from services.registry.store.quotas import USED, check_quota, check_within_quota, count
from services.registry.store.versions_by_asset import LIST_DIGESTS

_VERSION_AND_HEAD = f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {rows.VERSION} FROM models JOIN versions ON versions.model = models.id
              WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $3) AS found ON true
"""

_GET = read("versions.get", _VERSION_AND_HEAD)
# A write depends on the result, so no replica may answer.
_GET_NOW = Statement("versions.get_now", _VERSION_AND_HEAD)

_OF_ALIAS = read(
    "versions.of_alias",
    f"""
SELECT revision.value AS head, parent.id IS NOT NULL AS has_parent, found.*
  FROM {HEAD}
  LEFT JOIN ({MODEL}) AS parent ON true
  LEFT JOIN LATERAL (SELECT {rows.VERSION} FROM aliases JOIN versions ON versions.model = aliases.model
                                                                     AND versions.number = aliases.version
                      WHERE aliases.model = parent.id AND alias = $3 AND upper_inf(valid)) AS found ON true
""",
)

_LATEST = read(
    "versions.latest",
    f"""
SELECT revision.value AS head, parent.id IS NOT NULL AS has_parent, found.*
  FROM {HEAD}
  LEFT JOIN ({MODEL}) AS parent ON true
  LEFT JOIN LATERAL (SELECT {rows.VERSION} FROM versions WHERE model = parent.id AND state = 'READY'
                      ORDER BY number DESC LIMIT 1) AS found ON true
""",
)

_LIST = page_of(
    "versions.list",
    f"""
SELECT {rows.VERSION}, octets FROM versions
 WHERE model = parent.id AND ($3::bigint IS NULL OR number < $3) AND ($5 OR delete_time IS NULL)
 ORDER BY number DESC LIMIT $4
""",
    parent=MODEL,
)

_EXISTS = Statement(
    "versions.exists",
    """
SELECT true FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $3
""",
)

_SOURCE = Statement(
    "versions.source",
    f"""
SELECT {rows.VERSION} FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND models.delete_time IS NULL AND versions.number = $3
""",
)

# Whether a version ($4 to $6) is another one ($1 to $3) or among those that it comes from. Bounded, because lineages
# from before this was checked may go round in circles.
_DESCENDS = Statement(
    "versions.descends",
    """
WITH RECURSIVE line (namespace, model, number, depth) AS (
    SELECT $1::text, $2::text, $3::bigint, 1
    UNION ALL
    SELECT split_part(parent_version, '/', 2), split_part(parent_version, '/', 4),
           split_part(parent_version, '/', 6)::bigint, depth + 1
      FROM line JOIN models ON models.namespace_id = line.namespace AND models.model_id = line.model
                JOIN versions ON versions.model = models.id AND versions.number = line.number
     WHERE parent_version <> '' AND depth < 1000
)
SELECT true FROM line WHERE namespace = $4 AND model = $5 AND number = $6 LIMIT 1
""",
)

# Numbers are given without gaps: the model stays locked until this version is committed. The model is another one with
# it: its latest_version is part of what its etag stands for.
_CREATE = last(
    "versions.create",
    f"""
, numbered AS (
    UPDATE models SET latest_version = $11, update_time = next.moment, revision = next.value FROM next WHERE id = $10
), made AS (
    INSERT INTO versions (model, number, state, description, artifacts, parent_version, training_data, run, git_commit,
                          stage, labels, annotations, run_link, size_bytes, octets, create_time, update_time, revision,
                          copied_from, source, source_model_id, creator, of_namespace, of_model)
    SELECT $10, $11, 'PENDING', $12, $13::jsonb, $14, $15::text[], $16, $17, $18, $19::jsonb, $20::jsonb, $21, $22, $23,
           moment, moment, value, $25, $26, $27, $4, $24, $28
      FROM next
    RETURNING {rows.VERSION}
)
{count("$24", "0", "$22")}
SELECT made.revision AS written, made.*, {USED} FROM made, used
""",
)

# The model first, as every writer below it: a purge locks it, too, and then nobody waits for a row with the revision
# in hand.
_LOCKED = f"""
WITH model AS (
    SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL FOR {{}}
)
SELECT versions.model, {rows.VERSION} FROM model JOIN versions ON versions.model = model.id
 WHERE versions.number = $3 FOR NO KEY UPDATE OF versions
"""
_LOCK = Statement("versions.lock", _LOCKED.format("SHARE"))
_LOCK_ACTIVE = Statement("versions.lock_active", _LOCKED.format("NO KEY UPDATE"))

# Something of the model happened, which is no update of it.
_ACTIVE = """
, active AS (
    UPDATE models SET activity_time = next.moment FROM next WHERE id = $10 AND {}
)
"""

_UPDATE = last(
    "versions.update",
    f"""
, made AS (
    UPDATE versions
       SET description = $12, artifacts = coalesce($13::jsonb, artifacts), parent_version = $14,
           training_data = $15::text[], run = $16, git_commit = $17, stage = $18, labels = $19::jsonb,
           annotations = $20::jsonb, run_link = $21, size_bytes = $22, octets = $23, update_time = next.moment,
           revision = next.value
      FROM next
     WHERE model = $10 AND number = $11
    RETURNING {rows.VERSION}
)
{_ACTIVE.format("$26::boolean")}
{count("$24", "0", "$25::bigint")}
SELECT made.revision AS written, made.*, {USED} FROM made, used
""",
)

# For what the manifest of a version says of its model. Locked with the version.
_MODEL = Statement("versions.model", f"SELECT {rows.MODEL} FROM models WHERE id = $1")

# A FAILED version does not count against its namespace's quota, and keeps no bytes; a READY one keeps those that were
# pinned under its claim.
_SETTLE = last(
    "versions.settle",
    f"""
, made AS (
    UPDATE versions SET state = $12, failure = $13, oci_facts = $18, oci_digest = $19, oci_config_digest = $20,
                        update_time = next.moment, revision = next.value
      FROM next
     WHERE model = $10 AND number = $11
    RETURNING {rows.VERSION}
)
{_ACTIVE.format("true")}
{count("$14", "0", "-$15::bigint")}
{retain_pins("$16")}
{release_pins("SELECT $17::text AS owner WHERE $17::text IS NOT NULL")}
SELECT made.revision AS written, made.* FROM made
""",
)


class VersionStore:
    """
    Reads and writes versions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: VersionName) -> Read[Version]:
        """
        Raises:
            Missing: there is no such version, or it is deleted.
        """
        return await self._get(_GET, name)

    async def get_now(self, name: VersionName) -> Read[Version]:
        """
        As `get`, but from the primary, so that it reflects every committed write.
        """
        return await self._get(_GET_NOW, name)

    async def _get(self, statement: Statement, name: VersionName) -> Read[Version]:
        row = await self._database.fetch_row(statement, name.namespace, name.model, name.number)
        if row["number"] is None:
            raise no_version(name, row["head"])
        if row["delete_time"] is not None:
            raise version_deleted(name, row["head"])
        return Read(rows.to_version(row, name.parent), row["head"])

    async def resolve(self, parent: ModelName, reference: Reference) -> Read[Version]:
        """
        The version that a reference stands for.

        Raises:
            Missing: there is no such model, alias or version, or none that is READY.
        """
        if reference.number is not None:
            return await self.get(VersionName(parent.namespace, parent.model, reference.number))
        if reference.alias:
            name = AliasName(parent.namespace, parent.model, reference.alias)
            row = await self._database.fetch_row(_OF_ALIAS, parent.namespace, parent.model, reference.alias)
            missing = Missing("ALIAS_NOT_FOUND", name, row["head"])
        else:
            row = await self._database.fetch_row(_LATEST, parent.namespace, parent.model)
            missing = no_ready_version(parent, row["head"])
        if not row["has_parent"]:
            raise Missing("MODEL_NOT_FOUND", parent, row["head"])
        if row["number"] is None:
            raise missing
        return Read(rows.to_version(row, parent), row["head"])

    async def list_page(self, parent: ModelName, page: Page, *, deleted: bool) -> Listed[Version]:
        """
        A page of the versions of a model, the newest first.

        Args:
            deleted: with those that are deleted.

        Raises:
            Missing: there is no such model.
        """
        found = await self._database.fetch(_LIST, parent.namespace, parent.model, *after(page, 1), deleted)
        missing = ("MODEL_NOT_FOUND", parent)
        return listed(page, found, missing, lambda row: rows.to_version(row, parent), lambda row: [row["number"]])

    async def create(self, transaction: Transaction, parent: ModelName, draft: VersionDraft) -> Version:
        """
        Add the next version of *parent*, in state PENDING.

        Raises:
            Missing: there is no such model, or no such parent version.
        """
        model = await lock_model(transaction, parent)
        await check_parent_version(transaction, draft)
        return await self._add(transaction, parent, model, draft)

    async def copy(self, transaction: Transaction, parent: ModelName, source: VersionName) -> Version:
        """
        Add a version to *parent* with the content of another, in state PENDING: its artifacts are not pinned yet.

        Raises:
            Missing: there is no such model or source, or the source is deleted.
            FailedPrecondition: the source is not READY.
            ResourceExhausted: the namespace may not hold so many bytes.
        """
        model = await lock_model(transaction, parent)
        # Not locked: if it is deleted meanwhile, its pins outlast the time that the copy needs to get its own.
        row = await transaction.row(_SOURCE, source.namespace, source.model, source.number)
        if row is None:
            raise no_version(source)
        if row["delete_time"] is not None:
            raise version_deleted(source)
        version = rows.to_version(row, source.parent)
        check_ready(version)
        return await self._add(transaction, parent, model, version.draft, str(source))

    async def _add(
        self, transaction: Transaction, parent: ModelName, model: Row, draft: VersionDraft, copied_from: str = ""
    ) -> Version:
        await check_quota(transaction, parent.parent, size=draft.size_bytes)
        name = VersionName(parent.namespace, parent.model, model["latest_version"] + 1)
        copied = {"copied_from": copied_from} if copied_from else {}
        created = Journal.created(name, {"state": VersionState.PENDING, **draft.image(), **copied})
        moved = Journal.updated(parent, {"latest_version": model["newest_version"]}, {"latest_version": name.number})
        journal = Journal([*created.changes, *moved.changes], [*created.entries, *moved.entries])
        columns = [model["id"], name.number, *_columns(name, draft), parent.namespace, copied_from]
        columns += [draft.source, draft.source_model_id, parent.model]
        row = (await transaction.last(_CREATE, journal, *columns))[0]
        check_within_quota(parent.parent, row, size=draft.size_bytes)
        return rows.to_version(row, parent)

    async def update(self, transaction: Transaction, update: VersionUpdate) -> Version:
        """
        Raises:
            Missing: there is no such version, or no such parent version.
            FailedPrecondition: it is READY or FAILED, and a field is not one of those that may still change.
            Aborted: it has changed since the client read it.
            ResourceExhausted: the namespace may not hold so many bytes.
        """
        name = update.name
        model, before = await _lock(transaction, name, active="stage" in update.paths)
        check_etag(name, update.etag, before.revision)
        check_mutable(before, update.paths)
        draft = before.draft.updated(update.draft, update.paths)
        if "lineage" in update.paths:
            await check_parent_version(transaction, draft, name)
        more = draft.size_bytes - before.draft.size_bytes
        await check_quota(transaction, name.parent.parent, size=more)
        journal = Journal.updated(name, before.draft.image(), draft.image())
        staged = draft.stage != before.draft.stage
        columns = [model, name.number, *_columns(name, draft), name.namespace, more, staged]
        if "artifacts" not in update.paths:
            # They may have a megabyte, which is not written again, nor is its index.
            columns[3] = None
        row = (await transaction.last(_UPDATE, journal, *columns))[0]
        check_within_quota(name.parent.parent, row, size=more)
        return rows.to_version(row, name.parent)

    async def finalize(self, transaction: Transaction, checked: Version, claim: int | None) -> Version:
        """
        Make a version READY whose artifacts have been verified and pinned.

        Args:
            checked: the version as it was when they were.
            claim: under which they were pinned; None when there are no artifacts.

        Raises:
            Missing: there is no such version any more.
            FailedPrecondition: it is FAILED.
            Aborted: it has changed since, or its pins may have been released.
        """
        name = checked.name
        model, version = await _lock(transaction, name, active=True)
        check_not_failed(version)
        if version.state is VersionState.READY:
            await transaction.nothing()
            return version
        if version.revision != checked.revision:
            raise Aborted("VERSION_CHANGED", f"{name} changed while its artifacts were being verified: retry")
        if version.draft.artifacts:
            await check_claim(transaction, name, claim)
            # Ten thousand entries of an index take a while: so before the revision is taken, directly before the last
            # statement. If that one fails nothing of the group is kept, this included.
            await transaction.rows(LIST_DIGESTS, model, name.number)
        row = await transaction.row(_MODEL, model)
        if row is None:
            raise no_version(name)
        record = await recorded(rows.to_model(row).draft, version)
        return await _settle(transaction, model, version, VersionState.READY, "", claim, record)

    async def fail(self, transaction: Transaction, name: VersionName, failure: str) -> Version:
        """
        Mark a PENDING version as FAILED and release its pins; a FAILED one is left unchanged.

        Raises:
            Missing: there is no such version.
            FailedPrecondition: it is READY.
        """
        model, version = await _lock(transaction, name, active=True)
        check_not_ready(version)
        if version.state is VersionState.FAILED:
            await transaction.nothing()
            return version
        return await _settle(transaction, model, version, VersionState.FAILED, failure)


async def _lock(transaction: Transaction, name: VersionName, *, active: bool = False) -> tuple[int, Version]:
    """
    Args:
        active: the model's activity_time changes, too.
    """
    lock = _LOCK_ACTIVE if active else _LOCK
    row = await transaction.row(lock, name.namespace, name.model, name.number)
    if row is None:
        raise no_version(name)
    if row["delete_time"] is not None:
        raise version_deleted(name)
    return row["model"], rows.to_version(row, name.parent)


async def _settle(
    transaction: Transaction,
    model: int,
    version: Version,
    state: VersionState,
    failure: str,
    claim: int | None = None,
    record: OciRecord | None = None,
) -> Version:
    name = version.name
    after_: Image = {"state": state, "failure": failure} if failure else {"state": state}
    journal = Journal.updated(name, {"state": version.state}, after_)
    failed = state is VersionState.FAILED
    returned, unpinned = (version.draft.size_bytes, str(name)) if failed else (0, None)
    oci = (record.facts, record.digest, record.config_digest) if record else (None, None, None)
    columns = [model, name.number, state, failure, name.namespace, returned, claim, unpinned, *oci]
    row = await transaction.last(_SETTLE, journal, *columns)
    return rows.to_version(row[0], name.parent)


async def check_parent_version(transaction: Transaction, draft: VersionDraft, name: VersionName | None = None) -> None:
    """
    Args:
        name: of the version, when it is there already; nothing can come from one that is being made.

    Raises:
        Missing: the version that *draft* was trained from does not exist.
        FailedPrecondition: that one is derived from *name*.
    """
    if not draft.lineage.parent_version:
        return
    parent = VersionName.parse(draft.lineage.parent_version)
    if await transaction.row(_EXISTS, parent.namespace, parent.model, parent.number) is None:
        raise no_version(parent)
    if name is None:
        return
    both = (parent.namespace, parent.model, parent.number, name.namespace, name.model, name.number)
    if await transaction.row(_DESCENDS, *both) is not None:
        raise lineage_cycle(name, parent)


def _columns(name: VersionName, draft: VersionDraft) -> list[Any]:
    lineage = draft.lineage
    artifacts = rows.packed_artifacts(draft)
    octets = rows.version_octets(str(name), draft, artifacts)
    return [
        draft.description,
        artifacts,
        lineage.parent_version,
        list(lineage.training_data),
        lineage.run,
        lineage.git_commit,
        draft.stage,
        rows.packed(draft.labels),
        rows.packed(draft.annotations),
        draft.run_link,
        draft.size_bytes,
        octets,
    ]
