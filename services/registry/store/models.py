# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Models in the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from services.chassis.errors import Aborted, AlreadyExists, InvalidArgument
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.batcher import Batcher
from services.ledger.store.database import Database, min_revision
from services.ledger.store.paging import MOST_OCTETS, after, listed, page_of
from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.models import Model, ModelDraft, ModelUpdate, check_deleted, still_deployed
from services.registry.model.names import DeploymentName, ModelName, NamespaceName
from services.registry.store import rows
from services.registry.store.full_models import More, more_of, with_more
from services.registry.store.parents import NAMESPACE
from services.registry.store.pin_releases import release_pins
from services.registry.store.purging import deployments_deleted
from services.registry.store.quotas import USED, check_quota, check_within_quota, count

# One row for each name wanted, in their order; without a model where there is none.
_GET = read(
    "models.get",
    f"""
SELECT revision.value AS head, {rows.MODEL}
  FROM {HEAD}
 CROSS JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (namespace, model, place)
  LEFT JOIN models ON models.namespace_id = wanted.namespace AND models.model_id = wanted.model
 ORDER BY wanted.place
""",
)

# Nothing but the total when it is too much for one answer.
_BATCH_GET = read(
    "models.batch_get",
    f"""
SELECT revision.value AS head, sums.total, {rows.MODEL}
  FROM {HEAD}
 CROSS JOIN (SELECT coalesce(sum(octets), 0) AS total FROM models
              WHERE namespace_id = $1 AND model_id = ANY($2::text[])) AS sums
  LEFT JOIN models ON models.namespace_id = $1 AND models.model_id = ANY($2::text[]) AND sums.total <= {MOST_OCTETS}
""",
)

_LIST = page_of(
    "models.list",
    f"""
SELECT {rows.MODEL}, octets FROM models
 WHERE namespace_id = $1 AND model_id > coalesce($2, '') AND ($4 OR delete_time IS NULL)
 ORDER BY namespace_id, model_id LIMIT $3
""",
    parent=NAMESPACE,
)

_EXISTS = Statement("models.exists", "SELECT true FROM models WHERE namespace_id = $1 AND model_id = $2")

_CREATE = last(
    "models.create",
    f"""
, made AS (
    INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                        annotations, parameter_count, create_time, update_time, revision, octets, search, creator)
    SELECT $10, $11, $12, $13, $14, $15, $16, $17, $18::jsonb, $19::jsonb, $20, next.moment, next.moment, value, $21,
           model_words($11, $12, $18::jsonb, $13), $4
      FROM next
    RETURNING {rows.MODEL}
)
{count("$10", "1", "0")}
SELECT made.revision AS written, made.*, {USED} FROM made, used
""",
)

# A deleted model ($22) is purged, and another one of its name made. The row goes before the next one comes: the name is
# unique.
_REPLACE = last(
    "models.replace",
    f"""
, removed AS (
    DELETE FROM models WHERE id = $22 RETURNING 1
), made AS (
    INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                        annotations, parameter_count, create_time, update_time, revision, octets, search, creator)
    SELECT $10, $11, $12, $13, $14, $15, $16, $17, $18::jsonb, $19::jsonb, $20, next.moment, next.moment, value, $21,
           model_words($11, $12, $18::jsonb, $13), $4
      FROM next, (SELECT count(*) FROM removed) AS all_gone
    RETURNING {rows.MODEL}
)
{count("$10", "0", "-$23::bigint")}
{release_pins("SELECT $24::text || '/versions/' || number AS owner FROM versions WHERE model = $22")}
SELECT made.revision AS written, made.* FROM made, used
""",
)

_LOCK = Statement(
    "models.lock_whole",
    f"""
SELECT id, purge_started, purge_started OR purge_time <= now() AS is_due, {rows.MODEL} FROM models
 WHERE namespace_id = $1 AND model_id = $2 FOR NO KEY UPDATE
""",
)

_UPDATE = last(
    "models.update",
    f"""
, made AS (
    UPDATE models
       SET display_name = $12, description = $13, owner = $14, task = $15, framework = $16, license = $17,
           labels = $18::jsonb, annotations = $19::jsonb, parameter_count = $20, update_time = next.moment,
           revision = next.value, octets = $21, search = model_words($11, $12, $18::jsonb, $13) || card_words
      FROM next
     WHERE namespace_id = $10 AND model_id = $11
    RETURNING {rows.MODEL}
)
SELECT made.revision AS written, made.* FROM made
""",
)

# $11 is the seconds until the purge; NULL takes a deletion back.
_MARK = last(
    "models.mark_deleted",
    f"""
, made AS (
    UPDATE models
       SET delete_time = CASE WHEN $11::float8 IS NOT NULL THEN next.moment END,
           purge_time = next.moment + $11::float8 * interval '1 second', update_time = next.moment,
           revision = next.value
      FROM next
     WHERE id = $10
    RETURNING {rows.MODEL}
)
SELECT made.revision AS written, made.* FROM made
""",
)

_DEPLOYED = Statement(
    "deployments.live_of_model",
    """
SELECT namespace_id, deployment_id FROM deployments
 WHERE model = $1 AND state IN ('PENDING', 'ROLLING_OUT', 'LIVE', 'DEGRADED') ORDER BY deployment_id LIMIT 1
""",
)

# FAILED versions gave their bytes back when they failed.
_REMAINS = Statement(
    "models.remains",
    """
SELECT (SELECT coalesce(sum(size_bytes), 0)::bigint FROM versions WHERE model = $1 AND state <> 'FAILED') AS size,
       ARRAY(SELECT deployment_id FROM deployments WHERE model = $1 ORDER BY deployment_id) AS deployments
""",
)

# Every CTE sees the versions that the deletion takes with it. What is too much to be deleted with the revision in hand
# is already deleted by then (purging.py).
_PURGE = last(
    "models.purge",
    f"""
, removed AS (
    DELETE FROM models USING next WHERE id = $10 RETURNING next.value
)
{count("$11", "-1", "-$12::bigint")}
{release_pins("SELECT $13::text || '/versions/' || number AS owner FROM versions WHERE model = $10")}
SELECT removed.value AS written FROM removed, used
""",
)

_DUE = Statement(
    "models.due",
    """
SELECT id, namespace_id, model_id, purge_time FROM models
 WHERE delete_time IS NOT NULL AND purge_time <= now() AND (purge_time, id) > ($1, $2)
 ORDER BY purge_time, id LIMIT 100
""",
)

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """
    A deleted model that is due for purging.

    Args:
        key: of its row.
        purge_time: when it came.
    """

    name: ModelName
    key: int
    purge_time: datetime


# Those of a deleted model do not change.
_HAS_RULES = Statement(
    "models.deleted_with_rules",
    """
SELECT EXISTS (SELECT FROM models JOIN alias_rules ON alias_rules.model = models.id
                WHERE models.namespace_id = $1 AND models.model_id = $2 AND models.delete_time IS NOT NULL) AS found
""",
)
_RULES = Statement("models.rules", "SELECT EXISTS (SELECT FROM alias_rules WHERE model = $1) AS found")


class ModelStore:
    """
    Reads and writes models.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gets = Batcher(self._get)

    async def get(self, name: ModelName) -> Read[Model]:
        """
        Concurrent calls share one statement.

        Raises:
            Missing: there is no such model.
        """
        row = await self._gets.get((name, min_revision.get()))
        if row["model_id"] is None:
            raise Missing("MODEL_NOT_FOUND", name, row["head"])
        return Read(rows.to_model(row), row["head"])

    async def get_full(self, name: ModelName) -> Read[Model]:
        """
        With its aliases and its newest version of each stage.

        Raises:
            Missing: there is no such model.
        """
        more: dict[str, More] = {}

        async def work(snapshot: Snapshot) -> list[Row]:
            found = await snapshot.fetch(_GET, [[name.namespace], [name.model]])
            more.clear()
            more.update(await more_of(snapshot, name.parent, [name.model]))
            return found

        row = (await self._database.search_with(work))[0]
        if row["model_id"] is None:
            raise Missing("MODEL_NOT_FOUND", name, row["head"])
        return Read(with_more(rows.to_model(row), more), row["head"])

    async def _get(self, keys: Sequence[tuple[ModelName, int]]) -> Sequence[Row]:
        # A batch runs in a task of its own: what the most demanding of its callers asks for is asked for here.
        min_revision.set(max(least for _, least in keys))
        namespaces, models = [name.namespace for name, _ in keys], [name.model for name, _ in keys]
        return await self._database.fetch(_GET, namespaces, models)

    async def batch_get(self, parent: NamespaceName, names: Sequence[ModelName]) -> Read[list[Model]]:
        """
        The models in the order of *names*, all of one revision.

        Raises:
            Missing: one of them does not exist; the first one is named.
            InvalidArgument: together they do not fit into one answer.
        """
        ids = list({name.model for name in names})
        found = await self._database.fetch(_BATCH_GET, parent.namespace, ids)
        if (total := found[0]["total"]) > MOST_OCTETS:
            raise InvalidArgument.of("names", f"these models have {total:,} bytes: ask for fewer of them at a time")
        head = found[0]["head"]
        models = {row["model_id"]: row for row in found}
        for name in names:
            if name.model not in models:
                raise Missing("MODEL_NOT_FOUND", name, head)
        return Read([rows.to_model(models[name.model]) for name in names], head)

    async def list_page(self, parent: NamespaceName, page: Page, *, deleted: bool) -> Listed[Model]:
        """
        A page of the models of a namespace, by name.

        Raises:
            Missing: there is no such namespace.
        """
        found = await self._database.fetch(_LIST, parent.namespace, *after(page, 1), deleted)
        missing = ("NAMESPACE_NOT_FOUND", parent)
        return listed(page, found, missing, rows.to_model, lambda row: [row["model_id"]])

    async def has_rules(self, name: ModelName) -> bool:
        """
        Whether there is a deleted model of that name with rules of its own.
        """
        return bool((await self._database.fetch_row(_HAS_RULES, name.namespace, name.model))["found"])

    async def create(
        self,
        transaction: Transaction,
        name: ModelName,
        draft: ModelDraft,
        *,
        replace: bool = False,
        with_rules: bool = False,
    ) -> Model:
        """
        Args:
            replace: purge a deleted model of that name.
            with_rules: also if it has rules.

        Raises:
            Missing: there is no such namespace.
            AlreadyExists: there is such a model.
            Aborted: since `has_rules` was asked, one with rules was deleted.
            ResourceExhausted: the namespace may not hold more models.
        """
        before = await transaction.row(_LOCK, name.namespace, name.model) if replace else None
        if before is not None:
            if before["delete_time"] is None:
                raise AlreadyExists("MODEL_EXISTS", str(name))
            rules = await transaction.row(_RULES, before["id"])
            if not with_rules and (rules is None or rules["found"]):
                raise Aborted(
                    "MODEL_CHANGED",
                    f"{name} was deleted a moment ago, with rules that protect its aliases: retry",
                    metadata={"resource": str(name)},
                    retry_after=0.1,
                )
            return await self._replace(transaction, before, draft)
        await check_quota(transaction, name.parent, models=1)
        if await transaction.row(_EXISTS, name.namespace, name.model) is not None:
            raise AlreadyExists("MODEL_EXISTS", str(name))
        journal = Journal.created(name, draft.image(), subtree=True)
        try:
            row = (await transaction.last(_CREATE, journal, *model_columns(name, draft)))[0]
        except asyncpg.UniqueViolationError:
            raise AlreadyExists("MODEL_EXISTS", str(name)) from None
        check_within_quota(name.parent, row, models=1)
        return rows.to_model(row)

    async def _replace(self, transaction: Transaction, row: Row, draft: ModelDraft) -> Model:
        before = rows.to_model(row)
        name = before.name
        remains = await _remains(transaction, row["id"])
        gone = _purged(before, remains["deployments"])
        made = Journal.created(name, draft.image(), subtree=True)
        journal = Journal([*gone.changes, *made.changes], [*gone.entries, *made.entries])
        columns = [*model_columns(name, draft), row["id"], remains["size"], str(name)]
        return rows.to_model((await transaction.last(_REPLACE, journal, *columns))[0])

    async def update(self, transaction: Transaction, update: ModelUpdate) -> Model:
        """
        Raises:
            Missing: there is no such model.
            Aborted: the model has changed since the client read it.
        """
        name = update.name
        before = rows.to_model(await _lock(transaction, name))
        if before.delete_time is not None:
            raise Missing("MODEL_NOT_FOUND", name)
        check_etag(name, update.etag, before.revision)
        after_ = before.draft.updated(update.draft, update.paths)
        journal = Journal.updated(name, before.draft.image(), after_.image())
        return rows.to_model((await transaction.last(_UPDATE, journal, *model_columns(name, after_)))[0])

    async def delete(self, transaction: Transaction, name: ModelName, etag: str, keep: timedelta) -> Model:
        """
        Mark a model deleted.

        Args:
            etag: of the model that the client read; empty when it does not care.
            keep: until it is purged.

        Raises:
            Missing: there is no such model, or it is deleted already.
            Aborted: the model has changed since the client read it.
            FailedPrecondition: a live deployment runs one of its versions.
        """
        row = await _lock(transaction, name)
        key, before = row["id"], rows.to_model(row)
        if before.delete_time is not None:
            raise Missing("MODEL_NOT_FOUND", name)
        check_etag(name, etag, before.revision)
        if (deployed := await transaction.row(_DEPLOYED, key)) is not None:
            raise still_deployed(name, DeploymentName(deployed["namespace_id"], deployed["deployment_id"]))
        journal = Journal.of(name, ChangeKind.DELETED, before.draft.image(), {"deleted": True}, subtree=True)
        return rows.to_model((await transaction.last(_MARK, journal, key, keep.total_seconds()))[0])

    async def undelete(self, transaction: Transaction, name: ModelName) -> Model:
        """
        Undelete a model.

        Raises:
            Missing: there is no such model, or a part of it has been purged.
            FailedPrecondition: it is not deleted.
        """
        row = await _lock(transaction, name)
        key, before = row["id"], rows.to_model(row)
        check_deleted(before)
        if row["purge_started"]:
            raise Missing("MODEL_NOT_FOUND", name)
        journal = Journal.of(name, ChangeKind.UPDATED, {"deleted": True}, before.draft.image(), subtree=True)
        return rows.to_model((await transaction.last(_MARK, journal, key, None))[0])

    async def purge(self, transaction: Transaction, name: ModelName, *, due: bool = False) -> bool:
        """
        Remove a deleted model for good, with all that is below it and the deployments that ran it. The pins of its
        versions are released afterwards.

        Args:
            due: only if its purge time has passed.

        Returns:
            Whether it was purged.

        Raises:
            Missing: there is no such model.
            FailedPrecondition: it is not deleted.
        """
        row = await _lock(transaction, name)
        key, before = row["id"], rows.to_model(row)
        check_deleted(before)
        # By the database's clock, as `due`: by another the two might never agree.
        if due and not row["is_due"]:
            await transaction.nothing()
            return False
        remains = await _remains(transaction, key)
        journal = _purged(before, remains["deployments"])
        await transaction.last(_PURGE, journal, key, name.namespace, remains["size"], str(name))
        return True

    async def due(self, after_: Due | None = None) -> list[Due]:
        """
        Some deleted models that are due for purging, the oldest first.

        Args:
            after_: the last one that was given before.
        """
        since = (_EVER, 0) if after_ is None else (after_.purge_time, after_.key)
        found = await self._database.fetch(_DUE, *since)
        return [Due(ModelName(row["namespace_id"], row["model_id"]), row["id"], row["purge_time"]) for row in found]


async def _remains(transaction: Transaction, key: int) -> Row:
    row = await transaction.row(_REMAINS, key)
    assert row is not None  # noqa: S101 - for the type checker: a SELECT without FROM has one row
    return row


def _purged(model: Model, deployments: Sequence[str]) -> Journal:
    removed = deployments_deleted(model.name, deployments)
    own = Journal.of(model.name, ChangeKind.DELETED, model.draft.image(), None, subtree=True)
    return Journal([*own.changes, *removed.changes], [*own.entries, *removed.entries])


async def _lock(transaction: Transaction, name: ModelName) -> Row:
    row = await transaction.row(_LOCK, name.namespace, name.model)
    if row is None:
        raise Missing("MODEL_NOT_FOUND", name)
    return row


def model_columns(name: ModelName, draft: ModelDraft) -> list[Any]:
    """
    A model's columns as parameters, from its namespace to its octets.
    """
    texts = (draft.display_name, draft.description, draft.owner, draft.task, draft.framework, draft.license)
    octets = rows.octets_of(name.namespace, name.model, *texts, draft.labels, draft.annotations)
    labels, annotations = rows.packed(draft.labels), rows.packed(draft.annotations)
    return [name.namespace, name.model, *texts, labels, annotations, draft.parameter_count, octets]
