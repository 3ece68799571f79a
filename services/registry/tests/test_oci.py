"""
Versions as OCI artifacts: manifests and configurations, and digests that never change.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import imports_pb2, models_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.writer import Writer
from services.registry.model import oci
from services.registry.model.models import ModelDraft
from services.registry.model.names import VersionName
from services.registry.model.versions import Artifact, Lineage, Version, VersionDraft, VersionState
from services.registry.store.oci import OciJob
from services.registry.tests.calls import DEFAULT, add_version, create, import_items, move, sql, update
from services.registry.tests.server import Failing
from services.registry.tests.test_pins import PinSetup, on

M, N = f"{DEFAULT}/models/m", f"{DEFAULT}/models/n"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MODEL = ModelDraft(
    display_name="ResNet 50",
    owner="vision@example.org",
    license="apache-2.0",
    labels={"architecture": "cnn", "precision": "float32"},
    parameter_count=25_557_032,
)
ARTIFACTS = (
    Artifact("model.safetensors", "a" * 64, 100),
    Artifact("unet/config.json", "b" * 64, 2),
    Artifact("README.md", "c" * 64, 0),
    Artifact("LICENSE", "d" * 64, 9),
    Artifact("train.py", "e" * 64, 9),
    Artifact("data/träin.parquet", "f" * 64, 9),
    Artifact("weights", "a" * 64, 100),
)
VERSION = Version(
    VersionName("vision", "resnet50", 3),
    VersionState.PENDING,
    "",
    VersionDraft("the best one", ARTIFACTS, Lineage(training_data=("imagenet",), git_commit="1" * 40)),
    NOW,
    NOW,
    None,
    "",
    7,
    "ann",
    sum(artifact.size_bytes for artifact in ARTIFACTS),
    None,
)


@pytest.fixture
async def yard(database: str) -> AsyncIterator[PinSetup]:
    """
    A registry with two models, and its asset service.
    """
    async with on(database) as found:
        await create(found.registry, "m", models_pb2.Model(license="mit", labels={"architecture": "cnn"}))
        await create(found.registry, "n")
        yield found


async def ready(yard: PinSetup, files: int = 2) -> pb.Version:
    version = await yard.add(files=files)
    return await yard.finalize(version.name)


async def manifest(yard: PinSetup, reference: str, parent: str = M) -> pb.OciManifest:
    return await yard.registry.versions.GetOciManifest(pb.GetOciManifestRequest(parent=parent, reference=reference))


async def blob(yard: PinSetup, digest: str, parent: str = M) -> pb.OciBlob:
    return await yard.registry.versions.GetOciBlob(pb.GetOciBlobRequest(parent=parent, digest=digest))


async def fill(yard: PinSetup) -> int:
    async with open_database(DatabaseSettings(url=yard.registry.database)) as database:
        writer = Writer(database)
        try:
            return await OciJob(database, writer).fill()
        finally:
            await writer.close()


@asynccontextmanager
async def filling(yard: PinSetup, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Task[int]]:
    """
    The job while it computes its first manifest, which takes until the block ends.
    """
    computes, goes_on = threading.Event(), threading.Event()
    record = oci.record

    def held(model: ModelDraft, version: Version) -> oci.OciRecord:
        if computes.is_set():
            return record(model, version)
        computes.set()
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("manifests are computed in the event loop")
        goes_on.wait(30)
        return record(model, version)

    monkeypatch.setattr(oci, "record", held)
    task = asyncio.create_task(fill(yard))
    try:
        assert await asyncio.to_thread(computes.wait, 30)
        yield task
    finally:
        goes_on.set()
        await asyncio.wait([task])


async def forget(yard: PinSetup) -> None:
    """
    As after an update: the versions are there, what this release computes is not.
    """
    await sql(yard.registry, "UPDATE versions SET oci_digest = NULL, oci_config_digest = NULL, oci_facts = NULL")


def test_these_digests_are_for_ever() -> None:
    """
    The digests of an example. If this fails, stored digests no longer name what is served: change the code, not them.
    """
    found = oci.record(MODEL, VERSION)
    assert (found.digest, found.config_digest) == (
        "sha256:7a5d1102e78f3c6b3b0039e126cc2821afb2c341b3279ea2510d45508501dd06",
        "sha256:9c5f5d259fc54288a609894ce7d8229d3614980d8747dcc2707366b38688684d",
    )


def test_a_configuration_has_what_the_specification_knows() -> None:
    """
    A configuration has descriptor, config and modelfs of ModelPack; what is not known is left out.
    """
    found = json.loads(oci.config(oci.record(MODEL, VERSION).facts, ARTIFACTS))
    assert found == {
        "descriptor": {
            "createdAt": "2026-01-02T03:04:05.678901Z",
            "authors": ["vision@example.org"],
            "name": "vision/resnet50",
            "version": "3",
            "title": "ResNet 50",
            "description": "the best one",
            "datasetsURL": ["imagenet"],
            "revision": "1" * 40,
            "licenses": ["apache-2.0"],
        },
        "config": {"architecture": "cnn", "format": "safetensors", "paramSize": "25.6M", "precision": "float32"},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{each.sha256}" for each in ARTIFACTS]},
    }


def test_a_manifest_has_a_layer_for_each_file() -> None:
    """
    The layers are the files in their order, with their own digests, and a media type by the kind of file.
    """
    facts = oci.record(MODEL, VERSION).facts
    found = json.loads(oci.manifest(facts, ARTIFACTS))
    assert found["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert found["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert found["config"] == {
        "mediaType": "application/vnd.cncf.model.config.v1+json",
        "digest": oci.digest(oci.config(facts, ARTIFACTS)),
        "size": len(oci.config(facts, ARTIFACTS)),
    }
    layers = [
        (each["digest"], each["size"], each["annotations"]["org.cncf.model.filepath"]) for each in found["layers"]
    ]
    assert layers == [(f"sha256:{each.sha256}", each.size_bytes, each.path) for each in ARTIFACTS]
    kinds = [each["mediaType"].removeprefix("application/vnd.cncf.model.") for each in found["layers"]]
    assert kinds == [
        "weight.v1.raw",
        "weight.config.v1.raw",
        "doc.v1.raw",
        "doc.v1.raw",
        "code.v1.raw",
        "dataset.v1.raw",
        "weight.v1.raw",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (49, ""),
        (999, "1K"),
        (1000, "1K"),
        (1_500_000, "1.5M"),
        (999_960, "1M"),
        (6_738_415_616, "6.7B"),
        (10**12, "1T"),
        (2 * 10**18, "2000Q"),
    ],
)
def test_numbers_of_parameters(count: int, text: str) -> None:
    """
    A number of parameters has one digit after the point at most, and a unit.
    """
    found = json.loads(oci.record(replace(MODEL, parameter_count=count), VERSION).facts)["config"]
    assert found.get("paramSize", "") == text


def test_a_manifest_is_bounded() -> None:
    """
    10,000 files with paths of usual length fit into what clients accept; longer ones get no digest.
    """
    few = [Artifact(f"shards/part-{number:05}.parquet", f"{number:064x}", 10**9) for number in range(10_000)]
    version = replace(VERSION, draft=VersionDraft(artifacts=tuple(few)))
    assert oci.record(MODEL, version).digest.startswith("sha256:")
    many = tuple(replace(each, path=f"{'folder/' * 20}{each.path}") for each in few)
    assert oci.record(MODEL, replace(version, draft=VersionDraft(artifacts=many))).digest == oci.TOO_LARGE


async def test_a_ready_version_has_a_digest(yard: PinSetup) -> None:
    """
    A version has a digest from the moment it is READY, and every way to name it returns the manifest of that digest.
    """
    pending = await yard.add(files=2)
    assert pending.oci_digest == ""
    version = await yard.finalize(pending.name)
    await move(yard.registry, "m", ("production", 1))
    for reference in ("1", "v1", "latest", "production", version.oci_digest):
        found = await manifest(yard, reference)
        assert (found.version, found.digest) == (version.name, version.oci_digest)
        assert f"sha256:{hashlib.sha256(found.content).hexdigest()}" == found.digest
    assert (await yard.get(version.name)).oci_digest == version.oci_digest
    assert json.loads(found.content)["layers"][0]["digest"] == f"sha256:{version.artifacts[0].sha256}"


async def test_what_changes_later_changes_no_digest(yard: PinSetup) -> None:
    """
    A model's licence and a version's description are those of the moment when the version became READY.
    """
    version = await ready(yard)
    before = await manifest(yard, "latest")
    await update(yard.registry, "m", models_pb2.Model(license="gpl-3.0"), ["license", "labels"])
    content = pb.Version(name=version.name, description="changed", labels={"precision": "int8"})
    await yard.registry.versions.UpdateVersion(
        pb.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=["description", "labels"]))
    )
    assert await manifest(yard, "latest") == before
    config = await blob(yard, json.loads(before.content)["config"]["digest"])
    assert json.loads(config.content)["descriptor"]["licenses"] == ["mit"]
    assert json.loads(config.content)["config"]["architecture"] == "cnn"
    assert oci.digest(config.content) == config.digest
    assert (await yard.get(version.name)).oci_digest == before.digest


async def test_versions_from_before_are_filled(yard: PinSetup) -> None:
    """
    A version without a digest gets the one that it would have had, once; watchers are told, its etag stays.
    """
    version = await ready(yard)
    found = await manifest(yard, "1")
    await forget(yard)
    assert (await yard.get(version.name)).oci_digest == ""
    with Failing() as failed:
        await manifest(yard, "1")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OCI_MANIFEST_PENDING")
    before = await sql(yard.registry, "SELECT value FROM revision")
    assert await fill(yard) == 1
    assert await manifest(yard, found.digest) == found
    assert await yard.get(version.name) == version
    changed = await sql(
        yard.registry,
        "SELECT array_agg(resource) FROM changes, unnest(resources) AS resource WHERE revision > $1",
        before,
    )
    assert changed == [version.name]
    assert await fill(yard) == 0


async def test_imported_versions_are_filled(yard: PinSetup) -> None:
    """
    Versions that were imported READY get their digests, more than one batch of them, but no version that is not READY.
    """
    await yard.add()
    items = [
        imports_pb2.ImportModelsRequest.Item(model_id=f"i{number}", versions=[pb.Version() for _ in range(7)])
        for number in range(10)
    ]
    await import_items(yard.registry, items)
    # Every process of the registry has the job: each version is done once.
    assert sum(await asyncio.gather(*(fill(yard) for _ in range(3)))) == 70
    digests = await sql(yard.registry, "SELECT count(DISTINCT oci_digest) FROM versions WHERE state = 'READY'")
    assert digests == 70
    layers = json.loads((await manifest(yard, "7", f"{DEFAULT}/models/i3")).content)["layers"]
    assert [each["mediaType"] for each in layers] == ["application/vnd.oci.empty.v1+json"]
    assert (await blob(yard, layers[0]["digest"])).content == b"{}"


async def test_models_are_not_locked_while_manifests_are_computed(
    yard: PinSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While the job computes, its model can be written; what is stored afterwards belongs together.
    """
    version = await ready(yard)
    before = await manifest(yard, "1")
    await forget(yard)
    async with filling(yard, monkeypatch) as job:
        await update(yard.registry, "m", models_pb2.Model(license="gpl-3.0"), ["license"])
        assert not job.done()
    assert job.result() == 1
    # As if it had ended before the update: all of it is of the moment when it read.
    assert await manifest(yard, "1") == before
    assert (await yard.get(version.name)).oci_digest == before.digest


async def test_a_version_that_is_deleted_meanwhile_is_not_filled(
    yard: PinSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The job stores nothing with a version that was deleted while it computed, and tells nobody that it changed.
    """
    version, other = await ready(yard), await ready(yard, files=1)
    await forget(yard)
    async with filling(yard, monkeypatch) as job:
        await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=version.name))
        before = await sql(yard.registry, "SELECT value FROM revision")
    assert job.result() == 1
    assert await sql(yard.registry, "SELECT array_agg(number) FROM versions WHERE oci_digest IS NOT NULL") == [2]
    told = "SELECT array_agg(resource) FROM changes, unnest(resources) AS resource WHERE revision > $1"
    assert await sql(yard.registry, told, before) == [other.name]


async def test_a_version_that_is_filled_meanwhile_is_left_alone(
    yard: PinSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Of two processes that compute the same manifest, one stores it: a digest that somebody may have read stays.
    """
    await ready(yard)
    await forget(yard)
    async with filling(yard, monkeypatch) as job:
        await update(yard.registry, "m", models_pb2.Model(license="gpl-3.0"), ["license"])
        assert await fill(yard) == 1
        found = await manifest(yard, "1")
    assert job.result() == 0
    assert await manifest(yard, "1") == found


async def test_locked_models_do_not_hold_up_others(yard: PinSetup) -> None:
    """
    A batch of versions whose model somebody else has locked is skipped: those after it are filled.
    """
    for model, count in (("i", 50), ("j", 1)):
        item = imports_pb2.ImportModelsRequest.Item(model_id=model, versions=[pb.Version() for _ in range(count)])
        await import_items(yard.registry, [item])
    async with yard.registry.owner() as connection, connection.transaction():
        await connection.execute("SELECT FROM models WHERE model_id = 'i' FOR UPDATE")
        assert await fill(yard) == 1
    assert await fill(yard) == 50


async def test_a_batch_has_few_files(yard: PinSetup) -> None:
    """
    Versions with many files are filled a few at a time, so that a batch takes neither long nor much memory.
    """
    artifacts = [
        pb.Artifact(path=f"shards/part-{number:05}.parquet", sha256=f"{number:064x}", size_bytes=1)
        for number in range(3_000)
    ]
    versions = [pb.Version(artifacts=artifacts) for _ in range(4)]
    await import_items(yard.registry, [imports_pb2.ImportModelsRequest.Item(model_id="i", versions=versions)])
    # Nobody has these bytes.
    await sql(yard.registry, "UPDATE versions SET state = 'READY'")
    before = await sql(yard.registry, "SELECT value FROM revision")
    assert await fill(yard) == 4
    assert await sql(yard.registry, "SELECT value FROM revision") - before == 2


async def test_a_copy_has_a_digest_of_its_own(yard: PinSetup) -> None:
    """
    The manifest of a copy names its own model and number, and has the layers of the source.
    """
    source = await ready(yard)
    copy = await yard.registry.versions.CopyVersion(pb.CopyVersionRequest(parent=N, source=source.name))
    assert copy.oci_digest not in {"", source.oci_digest}
    one, other = await manifest(yard, "1"), await manifest(yard, "1", N)
    assert other.digest == copy.oci_digest
    assert json.loads(one.content)["layers"] == json.loads(other.content)["layers"]
    config = await blob(yard, json.loads(other.content)["config"]["digest"], N)
    assert json.loads(config.content)["descriptor"]["name"] == "default/n"


async def test_blobs_are_those_of_ready_versions(yard: PinSetup) -> None:
    """
    A model has the blobs of its own READY versions, and no others.
    """
    version = await ready(yard)
    digest = f"sha256:{version.artifacts[0].sha256}"
    found = await blob(yard, digest)
    assert (found.size_bytes, found.media_type) == (5, "application/vnd.cncf.model.weight.v1.raw")
    assert found.content == b""
    pending = await yard.add()
    config = json.loads((await manifest(yard, "1")).content)["config"]["digest"]
    for parent, unknown in (
        (N, digest),
        (N, config),
        (M, f"sha256:{'0' * 64}"),
        (M, version.oci_digest),
        (M, f"sha256:{pending.artifacts[0].sha256}"),
    ):
        with Failing() as failed:
            await blob(yard, unknown, parent)
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "BLOB_UNKNOWN")
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=version.name))
    for deleted in (digest, config):
        with Failing() as failed:
            await blob(yard, deleted)
        assert failed.reason == "BLOB_UNKNOWN"


async def test_what_has_no_manifest(yard: PinSetup) -> None:
    """
    A version that is not READY, one that is deleted, and names of nothing say which they are.
    """
    version = await ready(yard)
    await yard.add()
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=version.name))
    cases: dict[tuple[str, str], Any] = {
        (M, "2"): "VERSION_NOT_READY",
        (M, "1"): "VERSION_DELETED",
        (M, "3"): "VERSION_NOT_FOUND",
        (M, "latest"): "VERSION_NOT_FOUND",
        (M, "canary"): "ALIAS_NOT_FOUND",
        (M, version.oci_digest): "VERSION_NOT_FOUND",
        (f"{DEFAULT}/models/x", "latest"): "MODEL_NOT_FOUND",
    }
    for (parent, reference), reason in cases.items():
        with Failing() as failed:
            await manifest(yard, reference, parent)
        assert failed.reason == reason, reference
    for wrong in ("sha256:abc", "sha512:" + "a" * 128, "", "a b", ":"):
        with Failing() as failed:
            await manifest(yard, wrong)
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT, wrong


async def test_a_deleted_model_has_no_artifacts(yard: PinSetup) -> None:
    """
    Manifests, blobs and tags of a deleted model are not found, however they are named; it has them again when the
    deletion is taken back.
    """
    version = await ready(yard)
    await move(yard.registry, "m", ("production", 1))
    found = await manifest(yard, "latest")
    config = json.loads(found.content)["config"]["digest"]
    await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M))
    asked: list[Awaitable[Any]] = [manifest(yard, each) for each in ("1", "latest", "production", found.digest)]
    asked += [blob(yard, each) for each in (f"sha256:{version.artifacts[0].sha256}", config, oci.digest(oci.EMPTY))]
    for call in (*asked, yard.registry.versions.GetOciTags(pb.GetOciTagsRequest(parent=M))):
        with Failing() as failed:
            await call
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    await yard.registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=M))
    assert await manifest(yard, "latest") == found


async def test_too_large_a_manifest_is_not_served(yard: PinSetup) -> None:
    """
    A version whose manifest no client would accept has no digest, and says so; its files are blobs all the same.
    """
    version = await ready(yard)
    await sql(yard.registry, "UPDATE versions SET oci_digest = ''")
    assert (await yard.get(version.name)).oci_digest == ""
    with Failing() as failed:
        await manifest(yard, "latest")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OCI_MANIFEST_TOO_LARGE")
    assert (await blob(yard, f"sha256:{version.artifacts[0].sha256}")).size_bytes == 5
    assert await fill(yard) == 0


async def test_tags_are_aliases_and_ready_versions(yard: PinSetup) -> None:
    """
    The tags are the aliases, the READY versions and latest, in the order of their bytes, page by page.
    """
    for _ in range(11):
        await add_version(yard.registry, "m")
    await add_version(yard.registry, "m", ready=False)
    await move(yard.registry, "m", ("production", 3), ("canary", 5))
    await yard.registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=f"{M}/versions/4"))
    expected = ["canary", "latest", "production", "v1", "v10", "v11", "v2", "v3", "v5", "v6", "v7", "v8", "v9"]
    found: list[str] = []
    more = True
    while more:
        after = found[-1] if found else ""
        page = await yard.registry.versions.GetOciTags(pb.GetOciTagsRequest(parent=M, after=after, limit=4))
        found += page.tags
        more = page.more
    assert found == expected
    rest = await yard.registry.versions.GetOciTags(pb.GetOciTagsRequest(parent=M, after="not there"))
    assert (list(rest.tags), rest.more) == (expected[2:], False)
    # A version that is not READY is no tag, nor is it the latest.
    await add_version(yard.registry, "n", ready=False)
    assert list((await yard.registry.versions.GetOciTags(pb.GetOciTagsRequest(parent=N))).tags) == []
    with Failing() as failed:
        await yard.registry.versions.GetOciTags(pb.GetOciTagsRequest(parent=f"{DEFAULT}/models/x"))
    assert failed.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b.c/model.SAFETENSORS", "weight"),
        ("a.json/model", "weight"),
        (".json", "weight"),
        ("a/.py", "weight"),
        ("a.tar.gz", "weight"),
        ("x.JSON", "weight.config"),
        ("sub/README", "doc"),
        ("License.txt", "doc"),
        ("licenses.txt", "weight.config"),
        ("run.sh", "code"),
        ("train.jsonl", "dataset"),
    ],
)
def test_kinds_of_files(path: str, kind: str) -> None:
    """
    The kind of a file follows from its name: its last extension in any case, or what documents are called.
    """
    assert oci.layer_type(path) == f"application/vnd.cncf.model.{kind}.v1.raw"
