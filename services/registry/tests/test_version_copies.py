"""
CopyVersion and FindVersions over a real channel, and lineages that do not go round in circles.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import models_pb2, namespaces_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.chassis.errors import ResourceExhausted
from services.registry.tests.calls import DEFAULT, add_version, create, get, sql
from services.registry.tests.server import Failing, Registry
from services.registry.tests.test_pins import PinSetup, names, on

M, N = f"{DEFAULT}/models/m", f"{DEFAULT}/models/n"
SPACE = "namespaces/space"


@pytest.fixture
async def yard(database: str) -> AsyncIterator[PinSetup]:
    """
    A registry with two models, and its asset service.
    """
    async with on(database) as found:
        await create(found.registry, "m")
        await create(found.registry, "n")
        yield found


async def copy(yard: PinSetup, source: str = f"{M}/versions/1", parent: str = N, **more: str) -> pb.Version:
    """
    Copy a version.
    """
    return await yard.registry.versions.CopyVersion(pb.CopyVersionRequest(parent=parent, source=source, **more))


async def ready(yard: PinSetup, files: int = 2) -> pb.Version:
    """
    A READY version of m with files.
    """
    version = await yard.add(files=files)
    return await yard.finalize(version.name)


async def find(registry: Registry, sha256: str, parent: str = DEFAULT, size: int = 0) -> list[tuple[str, list[str]]]:
    """
    The versions that contain an asset, and where, from all pages.
    """
    found, token = [], ""
    while True:
        request = pb.FindVersionsRequest(parent=parent, sha256=sha256, page_size=size, page_token=token)
        page = await registry.versions.FindVersions(request)
        assert not size or len(page.matches) <= size
        found += [(each.version, list(each.paths)) for each in page.matches]
        token = page.next_page_token
        if not token:
            return found


async def test_a_copy_is_the_same(yard: PinSetup) -> None:
    """
    A copy is the next version of its model, READY, with all content of the source, and states its source.
    """
    await add_version(yard.registry, "n")
    version = await ready(yard)
    content = pb.Version(name=version.name, description="d", stage="s", labels={"a": "b"})
    mask = FieldMask(paths=["description", "stage", "labels"])
    source = await yard.registry.versions.UpdateVersion(pb.UpdateVersionRequest(version=content, update_mask=mask))
    made = await copy(yard)
    assert (made.name, made.state, made.copied_from) == (f"{N}/versions/2", pb.Version.STATE_READY, source.name)
    for field in ("description", "stage", "labels", "artifacts", "lineage", "size_bytes"):
        assert getattr(made, field) == getattr(source, field)
    assert await yard.get(made.name) == made
    assert (await get(yard.registry, "n")).latest_version == 2


async def test_a_copy_stands_by_itself(yard: PinSetup) -> None:
    """
    A copy has pins of its own: the source can be deleted, and its bytes stay for the copy.
    """
    source = await ready(yard)
    made = await copy(yard)
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=source.name))
    await yard.settle()
    assert yard.assets.pins == {made.name: names(source)}
    assert (await yard.get(made.name)).copied_from == source.name


async def test_into_another_namespace(yard: PinSetup) -> None:
    """
    The copy counts against the quota of the namespace that it is in, and where that is used up nothing is copied.
    """
    quota = namespaces_pb2.Namespace.Quota(max_asset_bytes=15)
    request = namespaces_pb2.CreateNamespaceRequest(
        namespace_id="space", namespace=namespaces_pb2.Namespace(quota=quota)
    )
    await yard.registry.namespaces.CreateNamespace(request)
    await yard.registry.models.CreateModel(models_pb2.CreateModelRequest(parent=SPACE, model_id="x"))
    await ready(yard)
    made = await copy(yard, parent=f"{SPACE}/models/x")
    assert made.name == f"{SPACE}/models/x/versions/1"
    assert await sql(yard.registry, "SELECT asset_bytes FROM namespace_usage WHERE namespace_id = 'space'") == 10
    with Failing() as failed:
        await copy(yard, parent=f"{SPACE}/models/x")
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA")


async def test_what_cannot_be_copied(yard: PinSetup) -> None:
    """
    Only a READY version of a model that is not deleted can be copied, and only to such a model.
    """
    pending = await yard.add()
    with Failing() as failed:
        await copy(yard, pending.name)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NOT_READY")
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=pending.name))
    await ready(yard)
    for source, parent, reason in (
        (f"{M}/versions/1", N, "VERSION_DELETED"),
        (f"{M}/versions/9", N, "VERSION_NOT_FOUND"),
        (f"{M}/versions/2", f"{DEFAULT}/models/none", "MODEL_NOT_FOUND"),
    ):
        with Failing() as failed:
            await copy(yard, source, parent)
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M))
    with Failing() as failed:
        await copy(yard, f"{M}/versions/2")
    assert failed.reason == "VERSION_NOT_FOUND"


async def test_a_retry_makes_one_copy(yard: PinSetup) -> None:
    """
    The same request id returns the first response, whatever the state of the source and the copy since.
    """
    source = await ready(yard)
    made = await copy(yard, request_id="x")
    for name in (source.name, made.name):
        await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=name))
    assert await copy(yard, request_id="x") == made
    with Failing() as failed:
        await copy(yard, parent=M, request_id="x")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_retry_goes_on(yard: PinSetup) -> None:
    """
    When the asset service did not respond, a retry with the same request id continues the copy that was begun.
    """
    source = await ready(yard)
    yard.assets.down = True
    with Failing() as failed:
        await copy(yard, request_id="x")
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert (await yard.get(f"{N}/versions/1")).state == pb.Version.STATE_PENDING
    yard.assets.down = False
    made = await copy(yard, request_id="x")
    assert (made.name, made.state) == (f"{N}/versions/1", pb.Version.STATE_READY)
    await yard.settle()
    assert yard.assets.pins[made.name] == names(source)


@pytest.mark.parametrize("request_id", ["", "x"])
async def test_a_copy_that_fails_holds_nothing(yard: PinSetup, request_id: str) -> None:
    """
    A copy whose artifacts cannot be pinned becomes FAILED, so that it does not count against the quota.
    """
    await ready(yard)
    yard.assets.refuse["Pin"] = ResourceExhausted("ASSET_QUOTA", "too much")
    with Failing() as failed:
        await copy(yard, request_id=request_id)
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA")
    begun = await yard.get(f"{N}/versions/1")
    assert (begun.state, begun.failure) == (pb.Version.STATE_FAILED, "not copied: too much")
    assert await sql(yard.registry, "SELECT asset_bytes FROM namespace_usage") == 10


async def test_the_source_is_deleted_meanwhile(yard: PinSetup) -> None:
    """
    A source that is deleted while it is copied does not take its bytes with it.
    """
    source = await ready(yard)
    hold = yard.assets.hold("Pin")
    copying = asyncio.ensure_future(copy(yard))
    await hold.reached.wait()
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=source.name))
    hold.over.set()
    made = await copying
    await yard.settle()
    assert yard.assets.pins == {made.name: names(source)}


async def test_versions_that_contain_an_asset(yard: PinSetup) -> None:
    """
    FindVersions finds each READY version with these bytes and where it has them, page by page, in one namespace or in
    all; not those that are PENDING, deleted, or of a deleted model.
    """
    weights, other = (hashlib.sha256(text).hexdigest() for text in (b"weights", b"other"))
    yard.assets.sizes.update({weights: 1, other: 1})
    await yard.registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="space"))
    await yard.registry.models.CreateModel(models_pb2.CreateModelRequest(parent=SPACE, model_id="x"))

    async def add(parent: str, *files: tuple[str, str]) -> str:
        artifacts = [pb.Artifact(path=path, sha256=sha256, size_bytes=1) for path, sha256 in files]
        version = pb.Version(artifacts=artifacts)
        made = await yard.registry.versions.CreateVersion(pb.CreateVersionRequest(parent=parent, version=version))
        return made.name

    first = await add(M, ("a", weights), ("b", weights), ("c", other))
    second, third = await add(M, ("d", weights)), await add(f"{SPACE}/models/x", ("e", weights))
    await add(M, ("pending", weights))
    for name in (first, second, third, await add(M, ("f", other))):
        await yard.finalize(name)
    assert await find(yard.registry, weights) == [(first, ["a", "b"]), (second, ["d"])]
    everywhere = [(first, ["a", "b"]), (second, ["d"]), (third, ["e"])]
    for size in (0, 1, 2):
        assert await find(yard.registry, weights, "namespaces/-", size) == everywhere
    assert await find(yard.registry, "0" * 64) == []
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=first))
    assert await find(yard.registry, weights) == [(second, ["d"])]
    await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M))
    assert await find(yard.registry, weights, "namespaces/-") == [(third, ["e"])]


async def test_made_ready_by_others(registry: Registry) -> None:
    """
    A version that another program makes READY, such as the release before, is found by its artifacts, too.
    """
    sha256 = hashlib.sha256(b"weights").hexdigest()
    artifacts = [pb.Artifact(path="a", sha256=sha256, size_bytes=1)]
    await create(registry, "m")
    version = await add_version(registry, "m", artifacts=artifacts)
    assert await find(registry, sha256) == []
    await sql(registry, "UPDATE versions SET state = 'READY' RETURNING 1")
    assert await find(registry, sha256) == [(version.name, ["a"])]


@pytest.mark.parametrize(
    ("parent", "sha256", "field"),
    [
        (DEFAULT, "", "sha256"),
        (DEFAULT, "A" * 64, "sha256"),
        ("namespaces/--", "0" * 64, "parent"),
        (M, "0" * 64, "parent"),
    ],
)
async def test_bad_look_ups(shared: Registry, parent: str, sha256: str, field: str) -> None:
    """
    A malformed digest or parent is rejected.
    """
    with Failing() as failed:
        await shared.versions.FindVersions(pb.FindVersionsRequest(parent=parent, sha256=sha256))
    assert list(failed.fields) == [field]


async def test_no_namespace(shared: Registry) -> None:
    """
    A namespace that does not exist is not found.
    """
    with Failing() as failed:
        await find(shared, "0" * 64, "namespaces/nowhere")
    assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_lineage_has_no_cycles(registry: Registry) -> None:
    """
    A version can come neither from itself nor from one that comes from it, however far.
    """
    await create(registry, "m")
    for number in range(4):
        lineage = pb.Lineage(parent_version=f"{M}/versions/{number}" if number else "")
        await add_version(registry, "m", ready=False, lineage=lineage)

    async def comes_from(number: int, parent: int) -> None:
        lineage = pb.Lineage(parent_version=f"{M}/versions/{parent}")
        content = pb.Version(name=f"{M}/versions/{number}", lineage=lineage)
        mask = FieldMask(paths=["lineage"])
        await registry.versions.UpdateVersion(pb.UpdateVersionRequest(version=content, update_mask=mask))

    for number, parent in ((1, 1), (1, 2), (1, 4), (2, 3)):
        with Failing() as failed:
            await comes_from(number, parent)
        assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LINEAGE_CYCLE")
    await comes_from(4, 1)
    await comes_from(3, 4)
