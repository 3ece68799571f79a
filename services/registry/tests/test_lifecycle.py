"""
From creation to purge: deletion and undeletion of models, versions that change and fail, quotas, namespaces that go.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import (
    aliases_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.ledger.store.database import DatabaseSettings, open_database
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    get,
    import_items,
    move,
    record,
    result,
    sql,
    sweeper,
)
from services.registry.tests.server import Failing, Registry, running

M = f"{DEFAULT}/models/m"
SHA = "a" * 64


async def delete(registry: Registry, name: str = M, etag: str = "") -> models_pb2.Model:
    """
    Delete a model.
    """
    return await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name, etag=etag))


async def undelete(registry: Registry, name: str = M) -> models_pb2.Model:
    """
    Undelete a model.
    """
    return await registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=name))


async def purge(registry: Registry, name: str = M) -> None:
    """
    Purge a model.
    """
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name))


async def listed(registry: Registry, **request: Any) -> list[str]:
    """
    The ids of the models that a list shows.
    """
    page = await registry.models.ListModels(models_pb2.ListModelsRequest(parent=DEFAULT, **request))
    return [each.name.rpartition("/")[2] for each in page.models]


async def limit(registry: Registry, models: int = 0, size: int = 0) -> namespaces_pb2.Namespace:
    """
    Set the quota of `default`.
    """
    quota = namespaces_pb2.Namespace.Quota(max_models=models, max_asset_bytes=size)
    return await registry.namespaces.UpdateNamespace(
        namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=DEFAULT, quota=quota), update_mask=FieldMask(paths=["quota"])
        )
    )


def files(size: int) -> versions_pb2.Version:
    """
    A version with one file of *size* bytes.
    """
    return versions_pb2.Version(artifacts=[versions_pb2.Artifact(path="w", sha256=SHA, size_bytes=size)])


async def add_files(registry: Registry, size: int, model: str = "m") -> versions_pb2.Version:
    """
    Add a PENDING version with so many bytes.
    """
    request = versions_pb2.CreateVersionRequest(parent=f"{DEFAULT}/models/{model}", version=files(size))
    return await registry.versions.CreateVersion(request)


async def test_delete_then_undelete(registry: Registry) -> None:
    """
    A deleted model is excluded from lists and searches, can still be read, keeps its name, and is restored unchanged.
    """
    made = await create(registry, "m", models_pb2.Model(description="pelican", owner="ann"))
    deleted = await delete(registry)
    assert deleted.delete_time.seconds
    assert deleted.purge_time.seconds - deleted.delete_time.seconds == 30 * 86400
    assert await get(registry, "m") == deleted
    assert await listed(registry) == []
    assert await listed(registry, show_deleted=True) == ["m"]
    search = models_pb2.SearchModelsRequest(parent=DEFAULT, query="pelican")
    assert not (await registry.models.SearchModels(search)).models
    with Failing() as failed:
        await create(registry, "m")
    assert failed.reason == "MODEL_EXISTS"
    with Failing() as failed:
        await delete(registry)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    back = await undelete(registry)
    assert (back.owner, back.HasField("delete_time"), back.HasField("purge_time")) == ("ann", False, False)
    assert back.create_time == made.create_time
    assert len((await registry.models.SearchModels(search)).models) == 1
    with Failing() as failed:
        await undelete(registry)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_DELETED")


async def test_delete_with_an_etag(registry: Registry) -> None:
    """
    A deletion is done only if the model is the one that was read.
    """
    made = await create(registry, "m")
    with Failing() as failed:
        await delete(registry, etag='"r1"')
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    await delete(registry, etag=made.etag)


async def test_below_a_deleted_model(registry: Registry) -> None:
    """
    Resources below a deleted model can be read, but not written.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await move(registry, "m", ("a", 1))
    await record(registry, result("m", 1, "d", "top1", 1.0))
    await delete(registry)
    await registry.versions.GetVersion(versions_pb2.GetVersionRequest(name=f"{M}/versions/1"))
    await registry.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=f"{M}/aliases/a"))
    request = evaluations_pb2.ListEvaluationsRequest(parent=M)
    assert len((await registry.evaluations.ListEvaluations(request)).evaluations) == 1
    for call in (
        add_version(registry, "m"),
        move(registry, "m", ("a", 0)),
        record(registry, result("m", 1, "d", "top1", 1.0)),
        registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=f"{M}/versions/1")),
        registry.aliases.RollbackAlias(aliases_pb2.RollbackAliasRequest(name=f"{M}/aliases/a")),
    ):
        with Failing() as failed:
            await call
        assert failed.code is grpc.StatusCode.NOT_FOUND


async def test_purge(registry: Registry) -> None:
    """
    Only a deleted model is purged; then nothing of it is left but its audit, and its name is free.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await move(registry, "m", ("a", 1))
    await record(registry, result("m", 1, "d", "top1", 1.0))
    with Failing() as failed:
        await purge(registry)
    assert failed.reason == "MODEL_NOT_DELETED"
    await delete(registry)
    await purge(registry)
    with Failing() as failed:
        await get(registry, "m")
    assert failed.reason == "MODEL_NOT_FOUND"
    for table in ("models", "versions", "aliases", "evaluations"):
        assert await sql(registry, f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - one of four words
    assert await sql(registry, "SELECT count(*) FROM audit WHERE resource LIKE $1", f"{M}%") > 4
    assert (await create(registry, "m")).latest_version == 0


async def replace(registry: Registry, **fields: Any) -> models_pb2.Model:
    """
    Create m again.
    """
    return await create(registry, "m", models_pb2.Model(**fields), replace_deleted=True)


async def test_replace_deleted(registry: Registry) -> None:
    """
    A deleted model can be purged by the creation of its successor: nothing of it is left but its audit, in one
    revision, and what it used of the quota is free. One that lives is in the way as ever, and without one it is a
    creation.
    """
    await limit(registry, models=1, size=10)
    made = await replace(registry, owner="ann")
    with Failing() as failed:
        await replace(registry)
    assert failed.reason == "MODEL_EXISTS"
    await add_version(registry, "m")
    await add_files(registry, 10)
    await move(registry, "m", ("a", 1))
    deleted = await delete(registry)
    dry = await create(registry, "m", replace_deleted=True, validate_only=True)
    assert (dry.latest_version, (await get(registry, "m")).latest_version) == (0, 2)
    again = await replace(registry, owner="bob")
    assert (again.owner, again.latest_version, again.revision) == ("bob", 0, deleted.revision + 1)
    assert again.create_time.ToNanoseconds() > made.create_time.ToNanoseconds()
    assert await get(registry, "m") == again
    for table in ("versions", "aliases"):
        assert await sql(registry, f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - one of two words
    assert await sql(registry, "SELECT count(*) FROM audit WHERE revision = $1", again.revision) == 2
    await add_files(registry, 10)


async def test_purge_when_due(database: str) -> None:
    """
    The purge job purges expired models, once, whichever process runs it; models that were undeleted in time stay.
    """
    async with running(database, MODELYARD_PURGE_AFTER_SECONDS="0") as registry:
        for model in ("m", "n", "o"):
            await create(registry, model)
        for model in ("m", "n"):
            await delete(registry, f"{DEFAULT}/models/{model}")
        await undelete(registry, f"{DEFAULT}/models/n")
        async with open_database(DatabaseSettings(url=database)) as one:
            assert sum(await asyncio.gather(*(sweeper(one).purge_due() for _ in range(4)))) == 1
        assert await listed(registry, show_deleted=True) == ["n", "o"]
        assert await sql(registry, "SELECT actor FROM audit WHERE action = 'PurgeModel'") == "modelyard-registry"


async def test_version_changes(registry: Registry) -> None:
    """
    A PENDING version changes in every field; once it is READY its artifacts and its lineage are fixed.
    """
    await create(registry, "m")
    version = await add_version(registry, "m", ready=False, description="first", stage="experiment")

    async def change(paths: list[str], etag: str = "", **fields: Any) -> versions_pb2.Version:
        content = versions_pb2.Version(name=version.name, etag=etag, **fields)
        request = versions_pb2.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=paths))
        return await registry.versions.UpdateVersion(request)

    changed = await change(["description", "stage"], description="second", stage="candidate")
    assert (changed.description, changed.stage) == ("second", "candidate")
    with Failing() as failed:
        await change(["description"], version.etag)
    assert failed.reason == "ETAG_MISMATCH"
    await registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version.name))
    for path in ("artifacts", "lineage", "*"):
        with Failing() as failed:
            await change([path])
        assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_IMMUTABLE")
    labelled = await change(["labels"], labels={"a": "b"})
    assert (labelled.description, dict(labelled.labels)) == ("second", {"a": "b"})
    corrected = await change(["description", "stage"], description="third", stage="production")
    assert (corrected.description, corrected.stage, corrected.state) == ("third", "production", labelled.state)
    with Failing() as failed:
        await change(["number"])
    assert list(failed.fields) == ["update_mask"]


async def test_versions_that_fail(registry: Registry) -> None:
    """
    A PENDING version is given up with a reason, for good; a READY one cannot be.
    """
    await create(registry, "m")
    pending, ready = await add_version(registry, "m", ready=False), await add_version(registry, "m")
    request = versions_pb2.FailVersionRequest(name=pending.name, failure="out of memory")
    for _ in range(2):
        failed_version = await registry.versions.FailVersion(request)
        assert (failed_version.state, failed_version.failure) == (versions_pb2.Version.STATE_FAILED, "out of memory")
    with Failing() as failed:
        await registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=pending.name))
    assert failed.reason == "VERSION_FAILED"
    with Failing() as failed:
        await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=ready.name))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_READY")


async def test_quota_of_models(registry: Registry) -> None:
    """
    However many create at once, exactly as many succeed as there is room for; a purge gives the room back.
    """
    await limit(registry, models=5)
    answers = await asyncio.gather(*(create(registry, f"m{n}") for n in range(32)), return_exceptions=True)
    made = [each for each in answers if isinstance(each, models_pb2.Model)]
    assert len(made) == 5
    assert {each.code() for each in answers if isinstance(each, grpc.aio.AioRpcError)} == {
        grpc.StatusCode.RESOURCE_EXHAUSTED
    }
    with Failing() as failed:
        await import_items(registry, [imports_pb2.ImportModelsRequest.Item(model_id="imported")])
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_QUOTA")
    assert failed.metadata["limit"] == "5"
    await delete(registry, made[0].name)
    with Failing() as failed:
        await create(registry, "still-full")
    await purge(registry, made[0].name)
    await create(registry, "room-again")


async def test_quota_of_bytes(registry: Registry) -> None:
    """
    The bytes of all versions count, the difference of an update does, and those of a failed or purged one come back.
    """
    await limit(registry, size=1000)
    await create(registry, "m")
    await create(registry, "n")
    answers = await asyncio.gather(*(add_files(registry, 300, "mn"[n % 2]) for n in range(16)), return_exceptions=True)
    made = [each for each in answers if isinstance(each, versions_pb2.Version)]
    assert len(made) == 3
    with Failing() as failed:
        await add_files(registry, 101)
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA")
    content = files(401)
    content.name = made[0].name
    update = versions_pb2.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=["artifacts"]))
    with Failing() as failed:
        await registry.versions.UpdateVersion(update)
    assert failed.reason == "ASSET_QUOTA"
    update.version.artifacts[0].size_bytes = 400
    await registry.versions.UpdateVersion(update)
    with Failing() as failed:
        await add_files(registry, 1)
    await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=made[0].name))
    await add_files(registry, 400)
    with Failing() as failed:
        item = imports_pb2.ImportModelsRequest.Item(model_id="imported", versions=[files(1)])
        await import_items(registry, [item])
    assert failed.reason == "ASSET_QUOTA"
    await delete(registry)
    await purge(registry)
    left = await sql(registry, "SELECT coalesce(sum(size_bytes), 0) FROM versions WHERE state <> 'FAILED'")
    assert await sql(registry, "SELECT asset_bytes FROM namespace_usage") == left


async def test_namespace_update(registry: Registry) -> None:
    """
    Only what the mask names changes, and only if the namespace is the one that was read.
    """
    made = await registry.namespaces.CreateNamespace(
        namespaces_pb2.CreateNamespaceRequest(
            namespace_id="s", namespace=namespaces_pb2.Namespace(owner="ann", description="old")
        )
    )

    async def change(paths: list[str], **fields: Any) -> namespaces_pb2.Namespace:
        content = namespaces_pb2.Namespace(name=made.name, **fields)
        return await registry.namespaces.UpdateNamespace(
            namespaces_pb2.UpdateNamespaceRequest(namespace=content, update_mask=FieldMask(paths=paths))
        )

    changed = await change(["owner", "labels"], owner="bob", labels={"a": "b"}, description="ignored")
    assert (changed.owner, dict(changed.labels), changed.description) == ("bob", {"a": "b"}, "old")
    with Failing() as failed:
        await change(["owner"], etag=made.etag)
    assert failed.reason == "ETAG_MISMATCH"
    with Failing() as failed:
        await change(["quota"], quota=namespaces_pb2.Namespace.Quota(max_models=-1))
    assert list(failed.fields) == ["namespace.quota.max_models"]


async def test_namespace_delete(registry: Registry) -> None:
    """
    Only an empty namespace can be deleted, and never `default`; no model is ever left without a namespace.
    """

    async def gone(name: str) -> None:
        await registry.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name=name))

    with Failing() as failed:
        await gone(DEFAULT)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NAMESPACE_IS_DEFAULT")
    for number in range(10):
        space = f"namespaces/s{number}"
        await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=f"s{number}"))
        # One of the two wins: either there is no such namespace any more, or it is not empty.
        made = models_pb2.CreateModelRequest(parent=space, model_id="m")
        answers = await asyncio.gather(registry.models.CreateModel(made), gone(space), return_exceptions=True)
        codes = [each.code() if isinstance(each, grpc.aio.AioRpcError) else None for each in answers]
        assert codes in ([None, grpc.StatusCode.FAILED_PRECONDITION], [grpc.StatusCode.NOT_FOUND, None])
    with Failing() as failed:
        await gone("namespaces/none")
    assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_rollback(registry: Registry) -> None:
    """
    A rollback goes to where the alias pointed before its last move; a removal is taken back, too; and at every time of
    its history it is known where it pointed.
    """
    await create(registry, "m")
    for _ in range(2):
        await add_version(registry, "m")
    name = f"{M}/aliases/a"
    rollback = aliases_pb2.RollbackAliasRequest(name=name)
    with Failing() as failed:
        await registry.aliases.RollbackAlias(rollback)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND")
    await move(registry, "m", ("a", 1))
    with Failing() as failed:
        await registry.aliases.RollbackAlias(rollback)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALIAS_NEVER_MOVED")
    await move(registry, "m", ("a", 2))
    assert (await registry.aliases.RollbackAlias(rollback)).version == f"{M}/versions/1"
    await move(registry, "m", ("a", 0))
    assert (await registry.aliases.RollbackAlias(rollback)).version == f"{M}/versions/1"
    request = aliases_pb2.ListAliasMovesRequest(parent=name)
    moves = list((await registry.aliases.ListAliasMoves(request)).moves)
    assert len(moves) == 5
    for each in moves:
        if each.version:
            then = aliases_pb2.GetAliasRequest(name=name, read_time=each.start_time)
            assert (await registry.aliases.GetAlias(then)).version == each.version
