# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Deployments in the database.
"""

from __future__ import annotations

import asyncpg

from services.chassis.errors import Aborted, AlreadyExists, FailedPrecondition
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.deployments import (
    Deployment,
    DeploymentDraft,
    DeploymentFilter,
    DeploymentUpdate,
    StatusUpdate,
    check_ended,
    check_transition,
    state_after,
)
from services.registry.model.names import DeploymentName, ModelName, VersionName
from services.registry.model.versions import VersionState, no_version, version_deleted
from services.registry.store import rows
from services.registry.store.parents import NAMESPACE
from services.registry.store.search.filters import Parameters

_GET = read(
    "deployments.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {rows.DEPLOYMENT} FROM deployments WHERE namespace_id = $1 AND deployment_id = $2) AS found ON true
""",
)

# FOR SHARE, not FOR KEY SHARE: a deletion only sets a column, and has to wait until the deployment is committed.
_VERSION = Statement(
    "versions.to_deploy",
    """
SELECT versions.model, versions.state, versions.delete_time FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND models.delete_time IS NULL AND versions.number = $3
   FOR SHARE OF models
""",
)

_EXISTS = Statement("deployments.exists", "SELECT true FROM deployments WHERE namespace_id = $1 AND deployment_id = $2")

_CREATE = last(
    "deployments.create",
    f"""
, made AS (
    INSERT INTO deployments (namespace_id, deployment_id, model, model_id, version, environment, state, status_message,
                             endpoint, replicas, labels, create_time, update_time, revision, octets)
    SELECT $10, $11, $12, $13, $14, $15, 'PENDING', $16, $17, $18, $19::jsonb, moment, moment, value, $20 FROM next
    RETURNING {rows.DEPLOYMENT}
)
SELECT made.revision AS written, made.* FROM made
""",
)

# Not from a replica: a write is grouped by it.
_MODEL = Statement(
    "deployments.model", "SELECT model_id FROM deployments WHERE namespace_id = $1 AND deployment_id = $2"
)

# The model first, as every writer does; only whether it is deleted matters, and a deletion waits for this write.
_LOCK = Statement(
    "deployments.lock",
    f"""
WITH held AS (
    SELECT models.id, models.delete_time FROM deployments JOIN models ON models.id = deployments.model
     WHERE deployments.namespace_id = $1 AND deployments.deployment_id = $2 FOR SHARE OF models
)
SELECT {rows.DEPLOYMENT}, held.delete_time IS NOT NULL AS deleted,
       EXISTS (SELECT FROM versions WHERE versions.model = held.id AND versions.number = deployments.version
                                      AND versions.delete_time IS NOT NULL) AS version_deleted
  FROM held, deployments
 WHERE deployments.namespace_id = $1 AND deployments.deployment_id = $2 FOR NO KEY UPDATE OF deployments
""",
)

_UPDATE = last(
    "deployments.update_status",
    f"""
, made AS (
    UPDATE deployments SET state = $12, status_message = $13, update_time = next.moment, revision = next.value FROM next
     WHERE namespace_id = $10 AND deployment_id = $11
    RETURNING {rows.DEPLOYMENT}
)
SELECT made.revision AS written, made.* FROM made
""",
)


# Both models in the order of their names, as every writer of several does.
_MODELS = Statement(
    "deployments.lock_models",
    """
SELECT id FROM models
 WHERE namespace_id = $1
   AND model_id IN ($3, (SELECT model_id FROM deployments WHERE namespace_id = $1 AND deployment_id = $2))
 ORDER BY model_id FOR SHARE
""",
)

_CHANGE = last(
    "deployments.update",
    f"""
, made AS (
    UPDATE deployments
       SET model = coalesce($12, model), model_id = $13, version = $14, environment = $15, status_message = $16,
           endpoint = $17, replicas = $18, labels = $19::jsonb, octets = $20, state = $21, update_time = next.moment,
           revision = next.value
      FROM next
     WHERE namespace_id = $10 AND deployment_id = $11
    RETURNING {rows.DEPLOYMENT}
)
SELECT made.revision AS written, made.* FROM made
""",
)

_DELETE = last(
    "deployments.delete",
    """
, removed AS (DELETE FROM deployments WHERE namespace_id = $10 AND deployment_id = $11)
SELECT next.value AS written FROM next
""",
)


class DeploymentStore:
    """
    Reads and writes deployments.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: DeploymentName) -> Read[Deployment]:
        """
        Raises:
            Missing: there is no such deployment.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.deployment)
        if row["deployment_id"] is None:
            raise Missing("DEPLOYMENT_NOT_FOUND", name, row["head"])
        return Read(rows.to_deployment(row), row["head"])

    async def list_page(self, wanted: DeploymentFilter, page: Page) -> Listed[Deployment]:
        """
        A page of the deployments of a namespace, by name.

        Raises:
            Missing: there is no such namespace.
        """
        parameters = Parameters(wanted.parent.namespace, page.size + 1)
        where = ["namespace_id = $1"]
        if wanted.model is not None:
            where.append(f"model = ({_model_of(wanted.model, parameters)})")
        if wanted.environment:
            where.append(f"environment = {parameters.add(wanted.environment, 'text')}")
        if wanted.version is not None:
            where.append(f"model = ({_model_of(wanted.version.parent, parameters)})")
            where.append(f"version = {parameters.add(wanted.version.number, 'bigint')}")
        if wanted.states:
            where.append(f"state = ANY({parameters.add(sorted(wanted.states), 'text[]')})")
        if page.after is not None:
            where.append(f"deployment_id > {parameters.add(page.after[0], 'text')}")
        found = f"""
SELECT {rows.DEPLOYMENT}, octets FROM deployments WHERE {" AND ".join(where)} ORDER BY deployment_id LIMIT $2
"""
        statement = page_of("deployments.list", found, NAMESPACE)
        answer = await self._database.fetch(statement, *parameters.values)
        missing = ("NAMESPACE_NOT_FOUND", wanted.parent)
        return listed(page, answer, missing, rows.to_deployment, lambda row: [row["deployment_id"]])

    async def create(self, transaction: Transaction, name: DeploymentName, draft: DeploymentDraft) -> Deployment:
        """
        Register a deployment, in state PENDING.

        Raises:
            Missing: there is no such version.
            FailedPrecondition: it is not READY.
            AlreadyExists: there is such a deployment.
        """
        version = draft.version
        key = await _model_to_deploy(transaction, version)
        if await transaction.row(_EXISTS, name.namespace, name.deployment) is not None:
            raise AlreadyExists("DEPLOYMENT_EXISTS", str(name))
        labels = rows.packed(draft.labels)
        texts = (draft.environment, draft.status_message, draft.endpoint)
        columns = [name.namespace, name.deployment, key, version.model, version.number, *texts]
        octets = rows.octets_of(str(name), str(version), *texts, draft.labels)
        journal = Journal.created(name, draft.image())
        try:
            made = await transaction.last(_CREATE, journal, *columns, draft.replicas, labels, octets)
        except asyncpg.UniqueViolationError:
            raise AlreadyExists("DEPLOYMENT_EXISTS", str(name)) from None
        return rows.to_deployment(made[0])

    async def model_of(self, name: DeploymentName) -> ModelName | None:
        """
        The model that a deployment runs; None when there is no such deployment.
        """
        found = await self._database.fetch(_MODEL, name.namespace, name.deployment)
        return ModelName(name.namespace, found[0]["model_id"]) if found else None

    async def update(self, transaction: Transaction, update: DeploymentUpdate) -> Deployment:
        """
        Change fields; another version begins a rollout.

        Raises:
            Missing: there is no such deployment or version.
            FailedPrecondition: the version is not READY, or no rollout may begin.
            Aborted: it has changed since the client read it.
        """
        name = update.name
        if "version" in update.paths:
            await transaction.rows(_MODELS, name.namespace, name.deployment, update.draft.version.model)
        before, _ = await self._locked(transaction, name, update.etag)
        draft = before.draft.updated(update.draft, update.paths)
        version, key = draft.version, None
        if version != before.draft.version:
            key = await _model_to_deploy(transaction, version)
        state = state_after(before, draft)
        texts = (draft.environment, draft.status_message, draft.endpoint)
        octets = rows.octets_of(str(name), str(version), *texts, draft.labels)
        journal = Journal.updated(
            name, {**before.draft.image(), "state": before.state}, {**draft.image(), "state": state}
        )
        columns = (name.namespace, name.deployment, key, version.model, version.number, *texts, draft.replicas)
        made = await transaction.last(_CHANGE, journal, *columns, rows.packed(draft.labels), octets, state)
        return rows.to_deployment(made[0])

    async def delete(self, transaction: Transaction, name: DeploymentName, etag: str, *, force: bool) -> None:
        """
        Raises:
            Missing: there is no such deployment.
            FailedPrecondition: it may still run, and *force* is not set.
            Aborted: it has changed since the client read it.
        """
        before, _ = await self._locked(transaction, name, etag)
        if not force:
            check_ended(before)
        image = {**before.draft.image(), "state": before.state}
        journal = Journal.of(name, ChangeKind.DELETED, image, None)
        await transaction.last(_DELETE, journal, name.namespace, name.deployment)

    async def update_status(self, transaction: Transaction, update: StatusUpdate) -> Deployment:
        """
        Raises:
            Missing: there is no such deployment.
            FailedPrecondition: the move is not legal.
            Aborted: it has changed since the client read it, or since this call began.
        """
        name = update.name
        before, row = await self._locked(transaction, name, update.etag)
        if before.draft.version.parent != update.model:
            # It was made, or made anew, while this write waited: others that lock that model may be in its transaction.
            raise Aborted("DEPLOYMENT_CHANGED", f"{name} has just been made: retry", metadata={"resource": str(name)})
        check_transition(before, update.state, deleted=row["deleted"], version_deleted=row["version_deleted"])
        then = {"state": before.state, "status_message": before.draft.status_message}
        now = {"state": update.state, "status_message": update.message}
        journal = Journal.updated(name, then, now)
        columns = (name.namespace, name.deployment, update.state, update.message)
        return rows.to_deployment((await transaction.last(_UPDATE, journal, *columns))[0])

    async def _locked(self, transaction: Transaction, name: DeploymentName, etag: str) -> tuple[Deployment, Row]:
        """
        A deployment under its lock, and the row that also says whether its model or its version is deleted.
        """
        row = await transaction.row(_LOCK, name.namespace, name.deployment)
        if row is None:
            raise Missing("DEPLOYMENT_NOT_FOUND", name)
        before = rows.to_deployment(row)
        check_etag(name, etag, before.revision)
        return before, row


async def _model_to_deploy(transaction: Transaction, version: VersionName) -> int:
    """
    The key of the model whose READY version is to run.
    """
    row = await transaction.row(_VERSION, version.namespace, version.model, version.number)
    if row is None:
        raise no_version(version)
    if row["delete_time"] is not None:
        raise version_deleted(version)
    if row["state"] != VersionState.READY:
        raise FailedPrecondition(
            "VERSION_NOT_READY",
            f"{version} is {row['state']}: finalize it first",
            metadata={"resource": str(version), "state": row["state"]},
        )
    key: int = row["model"]
    return key


def _model_of(name: ModelName, parameters: Parameters) -> str:
    namespace, model = (parameters.add(part, "text") for part in (name.namespace, name.model))
    return f"SELECT id FROM models WHERE namespace_id = {namespace} AND model_id = {model}"
