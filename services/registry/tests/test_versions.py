"""
Versions over a real channel, with an asset service that the tests control.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import imports_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.registry.tests.calls import DEFAULT, add_version, create, get, import_items, sql
from services.registry.tests.fake_assets import FakeAssets, new_fake_assets, serving
from services.registry.tests.server import Failing, Registry, running
from tests.client.bad_paths import CLASHING, RIGHT, WRONG

BYTES = b"weights"
SHA256 = hashlib.sha256(BYTES).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
async def assets() -> AsyncIterator[tuple[FakeAssets, str]]:
    """
    An asset service and its address.
    """
    assets = new_fake_assets()
    async with serving(assets) as address:
        yield assets, address


@pytest.fixture
async def yard(database: str, assets: tuple[FakeAssets, str]) -> AsyncIterator[Registry]:
    """
    A registry that asks that asset service.
    """
    async with running(database, assets[1]) as registry:
        await create(registry, "m")
        yield registry


async def finalize(registry: Registry, name: str) -> pb.Version:
    """
    Finalize a version.
    """
    return await registry.versions.FinalizeVersion(pb.FinalizeVersionRequest(name=name))


def artifact(path: str = "model.onnx", sha256: str = SHA256, size: int = len(BYTES)) -> pb.Artifact:
    """
    An artifact of the stored bytes.
    """
    return pb.Artifact(path=path, sha256=sha256, size_bytes=size, media_type="application/octet-stream")


async def test_create_then_get(registry: Registry) -> None:
    """
    A version is returned as it was created: the next number, PENDING, with the sum of its artifacts' sizes.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    lineage = pb.Lineage(
        parent_version=f"{DEFAULT}/models/m/versions/1", training_data=["a", "b"], run="run-7", git_commit="a" * 40
    )
    sent = pb.Version(
        description="second",
        artifacts=[artifact("a", size=3), artifact("b", size=4)],
        lineage=lineage,
        stage="staging",
        labels={"k": "v"},
        annotations={"a key": "x" * 5000},
        source="s3://bucket/wine",
        run_link="https://runs.example.org/7",
        source_model_id="m-0123",
    )
    request = pb.CreateVersionRequest(parent=f"{DEFAULT}/models/m", version=sent)
    made = await registry.versions.CreateVersion(request)
    found = await registry.versions.GetVersion(pb.GetVersionRequest(name=f"{DEFAULT}/models/m/versions/2"))
    assert made == found
    assert (found.number, found.state, found.size_bytes) == (2, pb.Version.STATE_PENDING, 7)
    assert (await get(registry, "m")).latest_version == 2
    assert found.actor == "anonymous"
    for field in ("name", "number", "state", "size_bytes", "create_time", "update_time", "revision", "etag", "actor"):
        found.ClearField(field)
    assert found == sent


async def test_numbers_have_no_gaps(registry: Registry) -> None:
    """
    Numbers have no gaps and no duplicates, however many writers there are and however many of them fail.
    """
    await create(registry, "m")
    good = pb.CreateVersionRequest(parent=f"{DEFAULT}/models/m")
    bad = pb.CreateVersionRequest(
        parent=f"{DEFAULT}/models/m",
        version=pb.Version(lineage=pb.Lineage(parent_version=f"{DEFAULT}/models/none/versions/1")),
    )
    calls = [registry.versions.CreateVersion(bad if index % 4 == 0 else good) for index in range(64)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    numbers = sorted(each.number for each in results if isinstance(each, pb.Version))
    assert numbers == list(range(1, 49))
    failed = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert {each.code() for each in failed} == {grpc.StatusCode.NOT_FOUND}
    assert await sql(registry, "SELECT value FROM revision") == 2 + 48


async def test_list_newest_first(registry: Registry) -> None:
    """
    Versions are listed from the newest on, page by page.
    """
    await create(registry, "m")
    for _ in range(5):
        await add_version(registry, "m", ready=False)
    numbers, token = [], ""
    while True:
        request = pb.ListVersionsRequest(parent=f"{DEFAULT}/models/m", page_size=2, page_token=token)
        page = await registry.versions.ListVersions(request)
        numbers.append([version.number for version in page.versions])
        token = page.next_page_token
        if not token:
            break
    assert numbers == [[5, 4], [3, 2], [1]]


async def test_finalize_verifies(yard: Registry, assets: tuple[FakeAssets, str]) -> None:
    """
    A version becomes READY once all its artifacts are stored with their sizes; finalizing it again changes nothing.
    """
    version = await add_version(yard, "m", artifacts=[artifact("a"), artifact("b")])
    with Failing() as failed:
        await finalize(yard, version.name)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ASSET_MISSING")
    assert failed.metadata == {"path": "a", "sha256": SHA256}
    assets[0].sizes[SHA256] = len(BYTES) + 1
    with Failing() as failed:
        await finalize(yard, version.name)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ASSET_SIZE_MISMATCH")
    assets[0].sizes[SHA256] = len(BYTES)
    done = await finalize(yard, version.name)
    assert done.state == pb.Version.STATE_READY
    assert done.revision == version.revision + 1
    assert await finalize(yard, version.name) == done
    assert await sql(yard, "SELECT value FROM revision") == done.revision


async def test_finalize_without_asset_service(yard: Registry, assets: tuple[FakeAssets, str]) -> None:
    """
    While the asset service does not answer, the call is UNAVAILABLE and the version stays PENDING.
    """
    version = await add_version(yard, "m", artifacts=[artifact()])
    assets[0].down = True
    with Failing() as failed:
        await finalize(yard, version.name)
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    found = await yard.versions.GetVersion(pb.GetVersionRequest(name=version.name))
    assert found.state == pb.Version.STATE_PENDING


async def test_finalize_many_artifacts(yard: Registry, assets: tuple[FakeAssets, str]) -> None:
    """
    A thousand files are verified in one call.
    """
    digests = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(1000)]
    assets[0].sizes = dict.fromkeys(digests, 5)
    version = await add_version(yard, "m", artifacts=[artifact(f"f/{each}", each, 5) for each in digests])
    assert (await finalize(yard, version.name)).state == pb.Version.STATE_READY


@pytest.mark.parametrize(
    ("field", "artifacts"),
    [
        ("version.artifacts[1].path", [artifact("a"), artifact("a", OTHER)]),
        ("version.artifacts[0].media_type", [pb.Artifact(path="a", sha256=SHA256, media_type="x" * 256)]),
        ("version.artifacts[0].sha256", [artifact(sha256="A" * 64)]),
        ("version.artifacts[0].sha256", [artifact(sha256="a" * 63)]),
        ("version.artifacts[0].size_bytes", [artifact(size=-1)]),
        ("version.artifacts", [artifact("a", size=2**63 - 1), artifact("b", size=1)]),
        ("version.artifacts", [artifact(str(index)) for index in range(10_001)]),
    ],
)
async def test_bad_artifacts(shared: Registry, field: str, artifacts: list[pb.Artifact]) -> None:
    """
    A malformed artifact is rejected, and the field is named.
    """
    with Failing() as failed:
        await shared.versions.CreateVersion(
            pb.CreateVersionRequest(parent=f"{DEFAULT}/models/m", version=pb.Version(artifacts=artifacts))
        )
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]


def _created(artifacts: list[pb.Artifact]) -> pb.CreateVersionRequest:
    return pb.CreateVersionRequest(parent=f"{DEFAULT}/models/m", version=pb.Version(artifacts=artifacts))


@pytest.mark.parametrize("path", WRONG, ids=ascii)
async def test_wrong_paths(shared: Registry, path: str) -> None:
    """
    Paths that push and pull reject are rejected in versions, too: the error names the field and the rule.
    """
    with Failing() as failed:
        await shared.versions.CreateVersion(_created([artifact("good"), artifact(path)]))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == ["version.artifacts[1].path"]
    assert WRONG[path] in failed.fields["version.artifacts[1].path"]


@pytest.mark.parametrize("paths", CLASHING, ids=ascii)
async def test_paths_that_clash(shared: Registry, paths: tuple[str, ...]) -> None:
    """
    Paths that cannot be in one folder on every system cannot be in one version.
    """
    with Failing() as failed:
        await shared.versions.CreateVersion(_created([artifact(path) for path in paths]))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert any(CLASHING[paths] in said for said in failed.fields.values())


async def test_right_paths(registry: Registry) -> None:
    """
    Names that every system can have are a version's.
    """
    await create(registry, "m")
    made = await registry.versions.CreateVersion(_created([artifact(path) for path in RIGHT]))
    assert [each.path for each in made.artifacts] == RIGHT


async def test_wrong_paths_elsewhere(registry: Registry) -> None:
    """
    An import and an update take no path that CreateVersion does not take.
    """
    wrong = pb.Version(artifacts=[artifact(".git/config")])
    with Failing() as failed:
        await import_items(registry, [imports_pb2.ImportModelsRequest.Item(model_id="m", versions=[wrong])])
    assert list(failed.fields) == ["items[0].versions[0].artifacts[0].path"]
    await create(registry, "m")
    made = await registry.versions.CreateVersion(_created([artifact()]))
    wrong.name = made.name
    with Failing() as failed:
        await registry.versions.UpdateVersion(
            pb.UpdateVersionRequest(version=wrong, update_mask=FieldMask(paths=["artifacts"]))
        )
    assert list(failed.fields) == ["version.artifacts[0].path"]


@pytest.mark.parametrize("paths", [[".git/config"], ["a", "a/b"]])
async def test_wrong_paths_of_old(yard: Registry, assets: tuple[FakeAssets, str], paths: list[str]) -> None:
    """
    A PENDING version with paths that were not checked when it was created becomes READY only after they are changed.
    """
    assets[0].sizes[SHA256] = len(BYTES)
    version = await add_version(yard, "m", artifacts=[artifact()])
    old = json.dumps([[path, SHA256, len(BYTES), ""] for path in paths])
    await sql(yard, "UPDATE versions SET artifacts = $1::jsonb", old)
    with Failing() as failed:
        await finalize(yard, version.name)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ARTIFACT_PATH_INVALID")
    assert failed.metadata["path"] == paths[-1]
    version.artifacts[0].path = "config"
    mask = FieldMask(paths=["artifacts"])
    await yard.versions.UpdateVersion(pb.UpdateVersionRequest(version=version, update_mask=mask))
    assert (await finalize(yard, version.name)).state == pb.Version.STATE_READY


async def test_no_such_version(registry: Registry) -> None:
    """
    The error names what is missing: the version, or for a list the model.
    """
    await create(registry, "m")
    with Failing() as failed:
        await registry.versions.GetVersion(pb.GetVersionRequest(name=f"{DEFAULT}/models/m/versions/1"))
    assert failed.reason == "VERSION_NOT_FOUND"
    with Failing() as failed:
        await registry.versions.ListVersions(pb.ListVersionsRequest(parent=f"{DEFAULT}/models/x"))
    assert failed.reason == "MODEL_NOT_FOUND"
    with Failing() as failed:
        await finalize(registry, f"{DEFAULT}/models/m/versions/9223372036854775807")
    assert failed.reason == "VERSION_NOT_FOUND"
