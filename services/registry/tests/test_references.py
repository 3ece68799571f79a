"""
What stands for a version: ResolveVersion, the aliases of a version, and moves and rollbacks with a condition.
"""

from __future__ import annotations

import grpc
import pytest

from modelyard.registry.v1 import aliases_pb2, models_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.registry.tests.calls import DEFAULT, add_version, create, move, sql
from services.registry.tests.server import Failing, Registry, revision_of

M = f"{DEFAULT}/models/m"
Move = aliases_pb2.MoveAliasesRequest.Move


async def of(registry: Registry, count: int) -> None:
    """
    A model m with so many READY versions.
    """
    await create(registry, "m")
    for _ in range(count):
        await add_version(registry, "m")


async def resolved(registry: Registry, reference: str, parent: str = M) -> int:
    """
    The number of the version that a reference stands for.
    """
    answer = await registry.versions.ResolveVersion(pb.ResolveVersionRequest(parent=parent, reference=reference))
    return answer.number


async def rollback(registry: Registry, expected: int = 0) -> int:
    """
    Roll `production` of m back: the number of the version that it points at then.
    """
    request = aliases_pb2.RollbackAliasRequest(name=f"{M}/aliases/production")
    request.expected_version = f"{M}/versions/{expected}" if expected else ""
    return int((await registry.aliases.RollbackAlias(request)).version.rpartition("/")[2])


async def delete(registry: Registry, number: int) -> None:
    """
    Delete a version of m, whatever points at it.
    """
    await registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=f"{M}/versions/{number}", force=True))


async def test_references(registry: Registry) -> None:
    """
    A number, with or without v, an alias and "latest" each stand for a version, and it is what GetVersion returns.
    """
    await of(registry, 3)
    await move(registry, "m", ("production", 2))
    for reference, number in (("1", 1), ("v1", 1), ("production", 2), ("latest", 3)):
        assert await resolved(registry, reference) == number
    call = registry.versions.ResolveVersion(pb.ResolveVersionRequest(parent=M, reference="production"))
    assert await call == await registry.versions.GetVersion(pb.GetVersionRequest(name=f"{M}/versions/2"))
    assert await revision_of(call) == await sql(registry, "SELECT value FROM revision")


async def test_latest_is_ready(registry: Registry) -> None:
    """
    "latest" passes over versions that are PENDING, FAILED or deleted.
    """
    await of(registry, 2)
    await add_version(registry, "m", ready=False)
    failed = await add_version(registry, "m", ready=False)
    await registry.versions.FailVersion(pb.FailVersionRequest(name=failed.name, failure="no"))
    assert await resolved(registry, "latest") == 2
    await delete(registry, 2)
    assert await resolved(registry, "latest") == 1
    await delete(registry, 1)
    with Failing() as none:
        await resolved(registry, "latest")
    assert (none.code, none.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    assert "no READY version" in none.message


@pytest.mark.parametrize(
    ("reference", "reason"),
    [("9", "VERSION_NOT_FOUND"), ("1", "VERSION_DELETED"), ("removed", "ALIAS_NOT_FOUND"), ("none", "ALIAS_NOT_FOUND")],
)
async def test_what_is_not_there(registry: Registry, reference: str, reason: str) -> None:
    """
    Each kind of reference says in its own reason that there is nothing, and as of which revision: a cache keeps that.
    """
    await of(registry, 2)
    await move(registry, "m", ("removed", 1))
    await move(registry, "m", ("removed", 0))
    await delete(registry, 1)
    with Failing() as failed:
        await resolved(registry, reference)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert int(failed.trailing["x-revision"]) == await sql(registry, "SELECT value FROM revision")


async def test_no_model(shared: Registry) -> None:
    """
    Without its model there is neither an alias nor a latest version.
    """
    for reference in ("production", "latest"):
        with Failing() as failed:
            await resolved(shared, reference, f"{DEFAULT}/models/nowhere")
        assert failed.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("reference", ["", "0", "-1", "007", "a b", "9" * 30, "@production", "latest/"])
async def test_bad_references(shared: Registry, reference: str) -> None:
    """
    A reference that is neither a number, an alias nor "latest" is rejected.
    """
    with Failing() as failed:
        await resolved(shared, reference)
    assert (failed.code, list(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["reference"])


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V1", "v0", "v123", "7", "007"])
async def test_reserved_aliases(registry: Registry, alias: str) -> None:
    """
    An alias that could be taken for a number or for the newest version cannot be made; one from before can be removed.
    """
    await of(registry, 1)
    with Failing() as failed:
        await move(registry, "m", (alias, 1))
    assert list(failed.fields) == ["moves[0].alias_id"]
    statement = """
        INSERT INTO aliases (model, alias, version, valid, actor, revision)
        SELECT id, $1, 1, tstzrange(now(), NULL), 'x', 1 FROM models RETURNING 1
    """
    assert await sql(registry, statement, alias) == 1
    await move(registry, "m", (alias, 0))
    assert not (await registry.aliases.ListAliases(aliases_pb2.ListAliasesRequest(parent=M))).aliases


async def test_names_like_reserved_ones(registry: Registry) -> None:
    """
    "v1-candidate", "v" and "latest-stable" are aliases like any other, and so are names with capitals, dots and digits,
    of up to 255 characters; case counts.
    """
    await of(registry, 1)
    for alias in ("v1-candidate", "v", "latest-stable", "v0.1", "Champion", "champion", "_a", "1.0", "a" * 255):
        await move(registry, "m", (alias, 1))
        assert await resolved(registry, alias) == 1


async def test_aliases_of_a_version(registry: Registry) -> None:
    """
    ListAliases can be asked for those that point at one version, page by page.
    """
    await of(registry, 2)
    await move(registry, "m", ("a", 1), ("b", 2), ("c", 1), ("d", 1))
    await move(registry, "m", ("d", 2))
    found, token = [], ""
    while True:
        request = aliases_pb2.ListAliasesRequest(parent=M, version=f"{M}/versions/1", page_size=1, page_token=token)
        page = await registry.aliases.ListAliases(request)
        found += [each.name.rpartition("/")[2] for each in page.aliases]
        token = page.next_page_token
        if not token:
            break
    assert found == ["a", "c"]
    for version in ("nonsense", f"{DEFAULT}/models/n/versions/1"):
        with Failing() as failed:
            await registry.aliases.ListAliases(aliases_pb2.ListAliasesRequest(parent=M, version=version))
        assert list(failed.fields) == ["version"]


async def test_only_if_absent(registry: Registry) -> None:
    """
    A move can require that the alias does not exist: the second of two is rejected. A removed alias does not exist.
    """
    await of(registry, 2)

    async def make(number: int, **more: str) -> None:
        wanted = Move(alias_id="a", version=f"{M}/versions/{number}", expected_absent=True, **more)
        await registry.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=M, moves=[wanted]))

    await make(1)
    with Failing() as failed:
        await make(2)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ALIAS_MOVED")
    await move(registry, "m", ("a", 0))
    await make(2)
    with Failing() as failed:
        await make(2, expected_version=f"{M}/versions/2")
    assert list(failed.fields) == ["moves[0].expected_absent"]


async def test_rollbacks_walk_back(registry: Registry) -> None:
    """
    After 1, 2, 3 one rollback leads to 2, the next to 1, and a third nowhere. A move begins anew.
    """
    await of(registry, 4)
    for number in (1, 2, 3):
        await move(registry, "m", ("production", number))
    assert [await rollback(registry), await rollback(registry)] == [2, 1]
    with Failing() as failed:
        await rollback(registry)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALIAS_NEVER_MOVED")
    await move(registry, "m", ("production", 4))
    # Before 4 it was at 1, where a rollback had put it: what came before that is before the first move.
    assert await rollback(registry) == 1
    with Failing() as failed:
        await rollback(registry)
    assert failed.reason == "ALIAS_NEVER_MOVED"


async def test_rollback_with_a_condition(registry: Registry) -> None:
    """
    A rollback that expects a version is done once, however often it is sent.
    """
    await of(registry, 3)
    for number in (1, 2, 3):
        await move(registry, "m", ("production", number))
    assert await rollback(registry, expected=3) == 2
    with Failing() as failed:
        await rollback(registry, expected=3)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ALIAS_MOVED")
    request = aliases_pb2.RollbackAliasRequest(name=f"{M}/aliases/production", expected_version="x")
    with Failing() as failed:
        await registry.aliases.RollbackAlias(request)
    assert list(failed.fields) == ["expected_version"]


async def test_rollback_passes_deleted_versions(registry: Registry) -> None:
    """
    A rollback passes over versions that were deleted since, also when one was deleted while the alias pointed at it.
    """
    await of(registry, 3)
    for number in (1, 2, 3):
        await move(registry, "m", ("production", number))
    await delete(registry, 2)
    assert await rollback(registry) == 1
    await move(registry, "m", ("production", 3))
    await delete(registry, 3)
    assert await rollback(registry) == 1


async def test_rollback_of_a_deleted_model(registry: Registry) -> None:
    """
    An alias of a deleted model is not rolled back.
    """
    await of(registry, 2)
    await move(registry, "m", ("production", 1))
    await move(registry, "m", ("production", 2))
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M))
    with Failing() as failed:
        await rollback(registry)
    assert failed.reason == "MODEL_NOT_FOUND"
