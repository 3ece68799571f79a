# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Versions as OCI artifacts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from services.ledger.model.calls import Missing, Read, Write
from services.ledger.model.changes import Change, ChangeKind, Journal
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.ledger.store.writer import Writer
from services.registry.model import oci
from services.registry.model.models import ModelDraft
from services.registry.model.names import AliasName, ModelName, VersionName
from services.registry.model.oci import OciBlob, OciManifest, OciRecord
from services.registry.model.references import Reference
from services.registry.model.versions import Version, check_ready, no_ready_version, no_version, version_deleted
from services.registry.store import rows
from services.registry.store.parents import MODEL

# Rendering takes 10 ms for a thousand files, which must not block other calls.
_MANY = 500
_BATCH = 50
# About 5,000 files.
_BATCH_OCTETS = 500_000
_MOST_BATCHES = 100
_ACTOR = "modelyard-registry"

# A deleted model has no artifacts.
_PARENT = f"{MODEL} AND delete_time IS NULL"


def _found(name: str, which: str) -> Statement:
    return read(
        name,
        f"""
SELECT revision.value AS head, parent.id IS NOT NULL AS has_parent, found.*
  FROM {HEAD}
  LEFT JOIN ({_PARENT}) AS parent ON true
  LEFT JOIN LATERAL (SELECT {rows.VERSION}, versions.oci_facts FROM versions
                      WHERE versions.model = parent.id AND {which}) AS found ON true
""",
    )


_OF_NUMBER = _found("oci.of_number", "number = $3")
_OF_ALIAS = _found(
    "oci.of_alias",
    """number = (
    SELECT aliases.version FROM aliases WHERE aliases.model = parent.id AND alias = $3 AND upper_inf(valid))""",
)
_LATEST = _found("oci.latest", "state = 'READY' ORDER BY number DESC LIMIT 1")
# A deleted version is FAILED.
_OF_DIGEST = _found("oci.of_digest", "state = 'READY' AND oci_digest = $3 AND oci_digest <> '' LIMIT 1")
_OF_CONFIG = _found("oci.of_config", "state = 'READY' AND oci_config_digest = $3 LIMIT 1")

# The index has the first 64 bits of the digests (see versions_by_asset.py).
_FILE = read(
    "oci.file",
    f"""
SELECT revision.value AS head, parent.id IS NOT NULL AS has_parent, found.*
  FROM {HEAD}
  LEFT JOIN ({_PARENT}) AS parent ON true
  LEFT JOIN LATERAL (
    SELECT artifact ->> 0 AS path, (artifact ->> 2)::bigint AS size
      FROM version_digests JOIN versions USING (model, number), jsonb_array_elements(artifacts) AS artifact
     WHERE model = parent.id AND state = 'READY'
       AND version_digests.keys @> ARRAY[('x' || left($3, 16))::bit(64)::bigint]
       AND artifact ->> 1 = $3
     LIMIT 1) AS found ON true
""",
)

_TAGS = read(
    "oci.tags",
    f"""
SELECT revision.value AS head, parent.id IS NOT NULL AS has_parent, found.tags
  FROM {HEAD}
  LEFT JOIN ({_PARENT}) AS parent ON true
  LEFT JOIN LATERAL (
    SELECT ARRAY(
        SELECT tag FROM (
            SELECT alias COLLATE "C" AS tag FROM aliases WHERE aliases.model = parent.id AND upper_inf(valid)
             UNION
            SELECT ('v' || number) COLLATE "C" FROM versions WHERE model = parent.id AND state = 'READY'
             UNION
            (SELECT 'latest' FROM versions WHERE model = parent.id AND state = 'READY' LIMIT 1)
        ) AS every
         WHERE tag > $3 COLLATE "C" ORDER BY tag LIMIT $4
    ) AS tags) AS found ON true
""",
)

# Not more than about so many bytes at once; a file has about a hundred. (Their number is in a column that is stored
# elsewhere when it is large, and that PostgreSQL would have to read for it.)
_WITHOUT = Statement(
    "oci.without",
    f"""
SELECT versions.model, models.namespace_id, models.model_id, models.display_name AS model_display_name,
       models.description AS model_description, models.owner, models.license, models.labels AS model_labels,
       models.parameter_count, {rows.VERSION}
  FROM (SELECT model, number, sum(octets) OVER (ORDER BY model, number) - octets AS before
          FROM (SELECT model, number, octets::bigint AS octets FROM versions
                 WHERE state = 'READY' AND oci_digest IS NULL AND (model, number) > ($1, $2)
                 ORDER BY model, number LIMIT {_BATCH}) AS next) AS found
  JOIN versions ON versions.model = found.model AND versions.number = found.number
  JOIN models ON models.id = found.model
 WHERE found.before < {_BATCH_OCTETS}
 ORDER BY versions.model, versions.number
""",
)

# The models first, as every writer below them. What somebody else has locked is left for the next time.
_STILL_WITHOUT = Statement(
    "oci.still_without",
    """
SELECT versions.model, versions.number
  FROM unnest($1::bigint[], $2::bigint[]) AS given (model, number)
  JOIN versions ON versions.model = given.model AND versions.number = given.number
  JOIN models ON models.id = versions.model
 WHERE versions.state = 'READY' AND versions.oci_digest IS NULL
 ORDER BY versions.model, versions.number
   FOR SHARE OF models SKIP LOCKED FOR NO KEY UPDATE OF versions SKIP LOCKED
""",
)

# Neither revision nor etag of a version moves: nothing changed that anybody wrote.
_RECORD = last(
    "oci.record",
    """
, made AS (
    UPDATE versions SET oci_facts = given.facts, oci_digest = given.digest, oci_config_digest = given.config_digest
      FROM unnest($10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[])
           AS given (model, number, facts, digest, config_digest)
     WHERE versions.model = given.model AND versions.number = given.number
    RETURNING versions.number
)
SELECT next.value AS written, (SELECT count(*) FROM made) AS made FROM next
""",
)


class OciStore:
    """
    Reads manifests and blobs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def manifest(self, parent: ModelName, reference: Reference | str) -> Read[OciManifest]:
        """
        The manifest of a version.

        Args:
            reference: a version of *parent*, or the digest of a manifest.

        Raises:
            Missing: there is no such model, or it is deleted, or no such alias or version, or none that is READY.
            FailedPrecondition: the version is not READY, or it has no manifest.
        """
        statement, wanted = _statement(reference)
        row = await self._database.fetch_row(statement, parent.namespace, parent.model, *wanted)
        if not row["has_parent"]:
            raise Missing("MODEL_NOT_FOUND", parent, row["head"])
        if row["number"] is None:
            raise _missing(parent, reference, row["head"])
        version = rows.to_version(row, parent)
        if version.delete_time is not None:
            raise version_deleted(version.name, row["head"])
        check_ready(version)
        oci.check_rendered(version.name, version.oci_digest)
        content = await _rendered(oci.manifest, row["oci_facts"], version)
        return Read(OciManifest(version.name, row["oci_digest"], content), row["head"])

    async def blob(self, parent: ModelName, wanted: str) -> Read[OciBlob]:
        """
        A blob of the READY versions of a model.

        Args:
            wanted: its digest.

        Raises:
            Missing: there is no such model, or none of its versions has the blob.
        """
        sha256 = wanted.removeprefix("sha256:")
        row = await self._database.fetch_row(_FILE, parent.namespace, parent.model, sha256)
        if not row["has_parent"]:
            raise Missing("MODEL_NOT_FOUND", parent, row["head"])
        if row["path"] is not None:
            return Read(OciBlob(wanted, row["size"], oci.layer_type(row["path"])), row["head"])
        row = await self._database.fetch_row(_OF_CONFIG, parent.namespace, parent.model, wanted)
        if row["number"] is not None:
            content = await _rendered(oci.config, row["oci_facts"], rows.to_version(row, parent))
            return Read(OciBlob(wanted, len(content), oci.CONFIG_TYPE, content), row["head"])
        if wanted == oci.digest(oci.EMPTY):
            # The layer of each version without files.
            return Read(OciBlob(wanted, len(oci.EMPTY), oci.EMPTY_TYPE, oci.EMPTY), row["head"])
        raise oci.no_blob(parent, wanted, row["head"])

    async def tags(self, parent: ModelName, after: str, limit: int) -> Read[Sequence[str]]:
        """
        The tags of a model, in the order of their bytes.

        Args:
            after: those after this text.
            limit: how many.

        Raises:
            Missing: there is no such model.
        """
        row = await self._database.fetch_row(_TAGS, parent.namespace, parent.model, after, limit)
        if not row["has_parent"]:
            raise Missing("MODEL_NOT_FOUND", parent, row["head"])
        return Read(row["tags"], row["head"])


class OciJob:
    """
    Computes what READY versions lack that were made by another program: an earlier release, or an import.

    Nothing is locked while it computes. Model and version are read by one statement, so that what is stored is of one
    moment after the version became READY; a change to the model since is one that came after that moment. The files
    of a READY version do not change, and a version that is deleted, purged or filled meanwhile is left alone.

    Args:
        database: where it reads.
        writer: runs the writes.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def fill(self) -> int:
        """
        Compute the manifests of some thousand versions.

        Returns:
            Of how many.

        Raises:
            Unavailable: the database does not answer.
        """
        done = 0
        # What is skipped because it is locked must not come first again.
        after = (0, 0)
        for _ in range(_MOST_BATCHES):
            found = await self._database.fetch(_WITHOUT, *after)
            if not found:
                break
            computed = await asyncio.to_thread(_computed, found)
            write = Write(_ACTOR, "ComputeOciManifests", "", "", b"")
            done += (await self._writer.run(write, partial(_store, computed), lambda _: b"", None)).value or 0
            after = (found[-1]["model"], found[-1]["number"])
        return done


@dataclass(frozen=True, slots=True)
class _Computed:
    """
    What is to be stored with a version.
    """

    name: VersionName
    record: OciRecord


def _computed(found: Sequence[Row]) -> Mapping[tuple[int, int], _Computed]:
    computed = {}
    for row in found:
        version = rows.to_version(row, ModelName(row["namespace_id"], row["model_id"]))
        computed[row["model"], row["number"]] = _Computed(version.name, oci.record(_model(row), version))
    return computed


async def _store(computed: Mapping[tuple[int, int], _Computed], transaction: Transaction) -> int:
    models, numbers = zip(*computed, strict=True)
    still = await transaction.rows(_STILL_WITHOUT, models, numbers)
    if not still:
        await transaction.nothing()
        return 0
    changes, records = [], []
    for model, number in still:
        each = computed[model, number]
        changes.append(Change(str(each.name), ChangeKind.UPDATED))
        records.append([model, number, each.record.facts, each.record.digest, each.record.config_digest])
    # Nothing for the audit: nobody changed anything.
    await transaction.last(_RECORD, Journal(changes, []), *map(list, zip(*records, strict=True)))
    return len(still)


async def recorded(model: ModelDraft, version: Version) -> OciRecord:
    """
    What is stored with a version that becomes READY.
    """
    if len(version.draft.artifacts) > _MANY:
        return await asyncio.to_thread(oci.record, model, version)
    return oci.record(model, version)


async def _rendered(render: Any, facts: str, version: Version) -> bytes:
    artifacts = version.draft.artifacts
    if len(artifacts) > _MANY:
        content: bytes = await asyncio.to_thread(render, facts, artifacts)
    else:
        content = render(facts, artifacts)
    return content


def _statement(reference: Reference | str) -> tuple[Statement, Sequence[object]]:
    if isinstance(reference, str):
        return _OF_DIGEST, [reference]
    if reference.number is not None:
        return _OF_NUMBER, [reference.number]
    if reference.alias:
        return _OF_ALIAS, [reference.alias]
    return _LATEST, []


def _missing(parent: ModelName, reference: Reference | str, head: int) -> Missing:
    if isinstance(reference, str):
        return oci.no_manifest(parent, reference, head)
    if reference.number is not None:
        return no_version(VersionName(parent.namespace, parent.model, reference.number), head)
    if reference.alias:
        return Missing("ALIAS_NOT_FOUND", AliasName(parent.namespace, parent.model, reference.alias), head)
    return no_ready_version(parent, head)


def _model(row: Row) -> ModelDraft:
    return ModelDraft(
        display_name=row["model_display_name"],
        description=row["model_description"],
        owner=row["owner"],
        license=row["license"],
        labels=rows.unpacked(row["model_labels"]),
        parameter_count=row["parameter_count"],
    )
