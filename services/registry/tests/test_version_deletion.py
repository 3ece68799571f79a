"""
DeleteVersion over a real channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import aliases_pb2, audit_pb2, evaluations_pb2, namespaces_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.registry.store.version_deletion import FEW_RESULTS
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    deploy,
    get,
    move,
    record,
    result,
    revisions,
    sql,
    status,
)
from services.registry.tests.server import Failing, Registry
from services.registry.tests.test_pins import PinSetup, on

M = f"{DEFAULT}/models/m"


@pytest.fixture
async def yard(database: str) -> AsyncIterator[PinSetup]:
    """
    A registry with a model, and its asset service.
    """
    async with on(database) as found:
        await create(found.registry, "m")
        yield found


async def delete(registry: Registry, number: int, **more: Any) -> pb.Version:
    """
    Delete a version of m.
    """
    return await registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=f"{M}/versions/{number}", **more))


async def get_version(registry: Registry, number: int) -> pb.Version:
    """
    Get a version of m.
    """
    return await registry.versions.GetVersion(pb.GetVersionRequest(name=f"{M}/versions/{number}"))


async def listed(registry: Registry, **more: Any) -> list[tuple[int, int]]:
    """
    The numbers and states of the versions of m.
    """
    answer = await registry.versions.ListVersions(pb.ListVersionsRequest(parent=M, **more))
    return [(each.number, each.state) for each in answer.versions]


async def of(registry: Registry, count: int) -> None:
    """
    A model m with so many READY versions.
    """
    await create(registry, "m")
    for _ in range(count):
        await add_version(registry, "m")


async def test_a_deleted_version_is_gone(registry: Registry) -> None:
    """
    A deleted version is not found, with a reason that says why, and is listed only on request.
    """
    await of(registry, 3)
    gone = await delete(registry, 2)
    assert (gone.state, gone.HasField("delete_time"), gone.failure) == (pb.Version.STATE_DELETED, True, "")
    with Failing() as failed:
        await get_version(registry, 2)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_DELETED")
    assert "was deleted" in failed.message
    ready, deleted = pb.Version.STATE_READY, pb.Version.STATE_DELETED
    assert await listed(registry) == [(3, ready), (1, ready)]
    assert await listed(registry, show_deleted=True) == [(3, ready), (2, deleted), (1, ready)]
    with Failing() as failed:
        await get_version(registry, 4)
    assert failed.reason == "VERSION_NOT_FOUND"


async def test_nothing_can_be_done_with_it(registry: Registry) -> None:
    """
    A deleted version can be neither updated, finalized, failed, aliased, deployed, evaluated nor deleted again.
    """
    await of(registry, 1)
    await delete(registry, 1)
    version = pb.Version(name=f"{M}/versions/1", labels={"a": "b"})
    name = version.name
    calls: list[Awaitable[Any]] = [
        registry.versions.UpdateVersion(pb.UpdateVersionRequest(version=version, update_mask=FieldMask(paths=["*"]))),
        registry.versions.FinalizeVersion(pb.FinalizeVersionRequest(name=name)),
        registry.versions.FailVersion(pb.FailVersionRequest(name=name, failure="no")),
        registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=name, force=True)),
        move(registry, "m", ("production", 1)),
        deploy(registry, "d", "m"),
    ]
    for call in calls:
        with Failing() as failed:
            await call
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_DELETED")
    with Failing() as failed:
        await record(registry, result("m", 1, "d", "m", 1))
    assert failed.reason == "VERSION_NOT_FOUND"


async def test_numbers_are_never_given_again(registry: Registry) -> None:
    """
    The number of a deleted version is not given again, and latest_version is the newest one that is left.
    """
    await of(registry, 3)
    await delete(registry, 3)
    assert (await get(registry, "m")).latest_version == 2
    await delete(registry, 1)
    assert (await get(registry, "m")).latest_version == 2
    await delete(registry, 2)
    assert (await get(registry, "m")).latest_version == 0
    assert (await add_version(registry, "m")).number == 4
    assert (await get(registry, "m")).latest_version == 4


async def test_bytes_and_quota_come_back(yard: PinSetup) -> None:
    """
    The pins of a deleted version are taken back, and its size no longer counts: a full namespace has room again.
    A purge of the model afterwards does not count it twice.
    """
    version, other = await yard.add(files=2), await yard.add()
    await yard.finalize(version.name)
    await yard.finalize(other.name)
    quota = namespaces_pb2.Namespace.Quota(max_asset_bytes=15)
    await yard.registry.namespaces.UpdateNamespace(
        namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=DEFAULT, quota=quota),
            update_mask=FieldMask(paths=["quota"]),
        )
    )
    with Failing() as failed:
        await yard.add()
    assert failed.reason == "ASSET_QUOTA"
    await delete(yard.registry, 1)
    await yard.settle()
    assert set(yard.assets.pins) == {other.name}
    assert (await yard.add()).number == 3
    await yard.fail(f"{M}/versions/3")
    await delete(yard.registry, 3)
    used = "SELECT asset_bytes FROM namespace_usage"
    assert await sql(yard.registry, used) == 5
    await yard.purge()
    assert await sql(yard.registry, used) == 0


async def test_a_pending_version(yard: PinSetup) -> None:
    """
    A PENDING version can be deleted, too; what was pinned for it meanwhile is taken back.
    """
    version = await yard.add()
    hold = yard.assets.hold("Pin")
    finalizing = yard.finalize(version.name)
    task = asyncio.ensure_future(finalizing)
    await hold.reached.wait()
    await delete(yard.registry, 1)
    hold.over.set()
    with Failing() as failed:
        await task
    assert failed.reason == "VERSION_DELETED"
    await yard.settle()
    assert yard.assets.pins == {}


async def test_an_aliased_version(registry: Registry) -> None:
    """
    A version that aliases point at is deleted only by force, which removes the aliases and retains their history.
    """
    await of(registry, 2)
    await move(registry, "m", ("a", 1), ("b", 1), ("c", 2))
    await move(registry, "m", ("b", 2))
    await move(registry, "m", ("b", 1))
    with Failing() as failed:
        await delete(registry, 1)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_ALIASED")
    assert failed.metadata["aliases"] == "a,b"
    await delete(registry, 1, force=True)
    answer = await registry.aliases.ListAliases(aliases_pb2.ListAliasesRequest(parent=M))
    assert [each.name for each in answer.aliases] == [f"{M}/aliases/c"]
    history = await registry.aliases.ListAliasMoves(aliases_pb2.ListAliasMovesRequest(parent=f"{M}/aliases/b"))
    assert [each.version.rpartition("/")[2] for each in history.moves] == ["", "1", "2", "1"]


async def test_a_deployed_version(registry: Registry) -> None:
    """
    A version that a live deployment runs is deleted only by force. The deployment stays, and can only go down.
    """
    await of(registry, 1)
    await deploy(registry, "d", "m")
    with Failing() as failed:
        await delete(registry, 1)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_DEPLOYED")
    assert failed.metadata["deployment"] == f"{DEFAULT}/deployments/d"
    await delete(registry, 1, force=True)
    with Failing() as failed:
        await status(registry, "d", "ROLLING_OUT")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_DELETED")
    assert (await status(registry, "d", "FAILED")).version == f"{M}/versions/1"


async def test_a_retired_deployment(registry: Registry) -> None:
    """
    A deployment that has ended does not prevent the deletion of the version that it ran.
    """
    await of(registry, 1)
    await deploy(registry, "d", "m")
    await status(registry, "d", "FAILED")
    assert (await delete(registry, 1)).state == pb.Version.STATE_DELETED


async def test_results_go_with_it(registry: Registry) -> None:
    """
    The results of a deleted version are on no leaderboard and in no list any more; those of others are.
    """
    await of(registry, 2)
    await record(registry, result("m", 1, "d", "top1", 99), result("m", 2, "d", "top1", 80))
    await delete(registry, 1)
    board = await registry.evaluations.QueryLeaderboard(
        evaluations_pb2.QueryLeaderboardRequest(parent=DEFAULT, dataset="d", metric="top1")
    )
    assert [each.evaluation.value for each in board.entries] == [80]
    listing = await registry.evaluations.ListEvaluations(evaluations_pb2.ListEvaluationsRequest(parent=M))
    assert [each.version for each in listing.evaluations] == [f"{M}/versions/2"]
    with Failing() as failed:
        await registry.evaluations.ListEvaluations(evaluations_pb2.ListEvaluationsRequest(parent=f"{M}/versions/1"))
    assert failed.reason == "VERSION_NOT_FOUND"


async def test_many_results_go_in_parts(registry: Registry) -> None:
    """
    More results than one write may take with the revision in hand go before the version, in writes of their own; none
    does when the version may not be deleted.
    """
    await of(registry, 2)
    count = FEW_RESULTS * 2 + 1
    await record(registry, *(result("m", 1, "d", "m", value) for value in range(count)), result("m", 2, "d", "m", 1))
    await move(registry, "m", ("a", 1))
    with Failing() as failed:
        await delete(registry, 1)
    assert failed.reason == "VERSION_ALIASED"
    left = "SELECT count(*) FROM evaluations"
    assert await sql(registry, left) == count + 1
    before = await sql(registry, "SELECT value FROM revision")
    gone = await delete(registry, 1, force=True)
    assert (await sql(registry, left), gone.revision) == (1, before + 3)
    parts = audit_pb2.ListAuditEntriesRequest(resource_prefix=f"{M}/versions/1/evaluations", action="DeleteVersion")
    assert len((await registry.audit.ListAuditEntries(parts)).entries) == 2


async def test_it_is_told_and_audited(registry: Registry) -> None:
    """
    The change stream names the version, the aliases that were removed with it, and the model, whose latest_version
    changed, in one revision; so does the audit.
    """
    await of(registry, 1)
    await move(registry, "m", ("a", 1))
    await record(registry, result("m", 1, "d", "m", 1))
    gone = await delete(registry, 1, force=True)
    (told,) = await revisions(registry, gone.revision, gone.revision)
    expected = {(f"{M}/versions/1", 3), (f"{M}/aliases/a", 3), (M, 2)}
    assert {(each.resource, each.kind) for each in told.changes} == expected
    assert (await get(registry, "m")).revision == gone.revision
    request = audit_pb2.ListAuditEntriesRequest(resource_prefix=f"{M}/versions/1", action="DeleteVersion")
    (entry,) = (await registry.audit.ListAuditEntries(request)).entries
    assert entry.before["state"] == "READY"
    assert dict(entry.after) == {"deleted": True, "evaluations": 1}


async def test_a_retry(registry: Registry) -> None:
    """
    The same request id returns the first response; validate_only writes nothing; another etag is rejected.
    """
    await of(registry, 2)
    await delete(registry, 1, validate_only=True)
    assert await listed(registry) == [(2, pb.Version.STATE_READY), (1, pb.Version.STATE_READY)]
    with Failing() as failed:
        await delete(registry, 1, etag='"r1"')
    assert failed.reason == "ETAG_MISMATCH"
    first = await delete(registry, 1, request_id="x")
    assert await delete(registry, 1, request_id="x") == first


async def test_children_keep_their_parent(registry: Registry) -> None:
    """
    The parent of a version stays known after it is deleted, and may still be given for a new one.
    """
    await of(registry, 1)
    lineage = pb.Lineage(parent_version=f"{M}/versions/1")
    await add_version(registry, "m", lineage=lineage)
    await delete(registry, 1)
    assert (await get_version(registry, 2)).lineage == lineage
    assert (await add_version(registry, "m", lineage=lineage)).lineage == lineage
