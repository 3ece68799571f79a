"""
Short forms of the calls that many tests make.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    aliases_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    versions_pb2,
)
from services.ledger.store.database import Database
from services.ledger.store.writer import Writer
from services.registry.store.cleanup import PurgeJob
from services.registry.store.models import ModelStore
from services.registry.store.purging import Purging
from services.registry.tests.server import Registry

DEFAULT = "namespaces/default"


async def create(
    registry: Registry, model: str, content: models_pb2.Model | None = None, **more: Any
) -> models_pb2.Model:
    """
    Create a model in `default`.
    """
    request = models_pb2.CreateModelRequest(parent=DEFAULT, model_id=model, model=content, **more)
    return await registry.models.CreateModel(request)


async def get(registry: Registry, model: str) -> models_pb2.Model:
    """
    Get a model of `default`.
    """
    return await registry.models.GetModel(models_pb2.GetModelRequest(name=f"{DEFAULT}/models/{model}"))


async def update(registry: Registry, model: str, content: models_pb2.Model, paths: Sequence[str]) -> models_pb2.Model:
    """
    Update fields of a model of `default`.
    """
    content.name = f"{DEFAULT}/models/{model}"
    request = models_pb2.UpdateModelRequest(model=content, update_mask=FieldMask(paths=paths))
    return await registry.models.UpdateModel(request)


async def add_version(registry: Registry, model: str, *, ready: bool = True, **fields: Any) -> versions_pb2.Version:
    """
    Add a version to a model of `default`; finalized, if it has no artifacts that somebody would have to verify.
    """
    version = await registry.versions.CreateVersion(
        versions_pb2.CreateVersionRequest(parent=f"{DEFAULT}/models/{model}", version=versions_pb2.Version(**fields))
    )
    if ready and not version.artifacts:
        return await registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version.name))
    return version


async def move(registry: Registry, model: str, *moves: tuple[str, int], **more: Any) -> aliases_pb2.MoveAliasesResponse:
    """
    Point aliases of a model of `default` at versions; 0 removes one.
    """
    parent = f"{DEFAULT}/models/{model}"
    wanted = [
        aliases_pb2.MoveAliasesRequest.Move(alias_id=alias, version=f"{parent}/versions/{number}" if number else "")
        for alias, number in moves
    ]
    return await registry.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=parent, moves=wanted, **more))


async def write_card(registry: Registry, model: str, etag: str = "", **fields: Any) -> cards_pb2.Card:
    """
    Write fields of the card of a model of `default`.
    """
    card = cards_pb2.Card(name=f"{DEFAULT}/models/{model}/card", etag=etag, **fields)
    request = cards_pb2.UpdateCardRequest(card=card, update_mask=FieldMask(paths=list(fields)))
    return await registry.cards.UpdateCard(request)


async def deploy(
    registry: Registry, deployment: str, model: str, environment: str = "production", **more: Any
) -> deployments_pb2.Deployment:
    """
    Register that version 1 of a model of `default` runs in an environment.
    """
    content = deployments_pb2.Deployment(
        version=f"{DEFAULT}/models/{model}/versions/1", environment=environment, **more
    )
    request = deployments_pb2.CreateDeploymentRequest(parent=DEFAULT, deployment_id=deployment, deployment=content)
    return await registry.deployments.CreateDeployment(request)


async def status(
    registry: Registry, deployment: str, state: str, message: str = "", etag: str = ""
) -> deployments_pb2.Deployment:
    """
    Move a deployment of `default` to a state, by the state's short name.
    """
    request = deployments_pb2.UpdateDeploymentStatusRequest(
        name=f"{DEFAULT}/deployments/{deployment}",
        state=deployments_pb2.Deployment.State.Value(f"STATE_{state}"),
        status_message=message,
        etag=etag,
    )
    return await registry.deployments.UpdateDeploymentStatus(request)


def result(model: str, number: int, dataset: str, metric: str, value: float, **more: Any) -> evaluations_pb2.Evaluation:
    """
    A result of a version of a model of `default`.
    """
    version = f"{DEFAULT}/models/{model}/versions/{number}"
    return evaluations_pb2.Evaluation(version=version, dataset=dataset, metric=metric, value=value, **more)


async def record(registry: Registry, *results: evaluations_pb2.Evaluation) -> evaluations_pb2.RecordEvaluationsResponse:
    """
    Record results in `default`.
    """
    request = evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=results)
    return await registry.evaluations.RecordEvaluations(request)


async def import_items(
    registry: Registry, *batches: Sequence[imports_pb2.ImportModelsRequest.Item], **more: Any
) -> list[imports_pb2.ImportModelsResponse]:
    """
    Import batches into `default`, one after the other.
    """

    async def requests() -> AsyncIterator[imports_pb2.ImportModelsRequest]:
        for items in batches:
            yield imports_pb2.ImportModelsRequest(parent=DEFAULT, items=items, **more)

    return [answer async for answer in registry.imports.ImportModels(requests())]


def sweeper(database: Database) -> PurgeJob:
    """
    What purges the models of a database, as every registry does in the background.
    """
    writer = Writer(database)
    return PurgeJob(ModelStore(database), Purging(database, writer), writer)


async def watch(registry: Registry, **request: Any) -> AsyncGenerator[changes_pb2.WatchChangesResponse, None]:
    """
    The change stream, cancelled when the generator is closed.
    """
    call = registry.changes.WatchChanges(changes_pb2.WatchChangesRequest(**request))
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


async def revisions(registry: Registry, start: int, upto: int, prefix: str = "") -> list[changes_pb2.Revision]:
    """
    The revisions from *start* to *upto* that concern *prefix*, as the change stream tells them.
    """
    found = []
    request = {"start_revision": start, "resource_prefix": prefix, "heartbeat_interval": Duration(nanos=200_000_000)}
    async with aclosing(watch(registry, **request)) as messages:
        async for message in messages:
            if message.HasField("revision"):
                found.append(message.revision)
            at = message.revision.revision or message.heartbeat.applied_revision
            if at >= upto:
                return found
    return found


async def sql(registry: Registry, statement: str, *args: Any) -> Any:
    """
    The first value that a statement returns, run by the database's owner.
    """
    async with registry.owner() as connection:
        return await connection.fetchval(statement, *args)
