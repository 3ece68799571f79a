"""
SearchVersions over a real channel.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import models_pb2, namespaces_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.ledger.migrate import migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.calls import DEFAULT, add_version, create, import_items, move
from services.registry.tests.server import Failing, Registry, running
from services.registry.tests.test_imports import item

M = f"{DEFAULT}/models/m"


async def search(registry: Registry, wanted: str = "", parent: str = DEFAULT, **more: Any) -> list[str]:
    """
    What a search finds, as model/number, all pages of it.
    """
    names, token = [], ""
    while True:
        request = pb.SearchVersionsRequest(parent=parent, filter=wanted, page_token=token, **more)
        page = await registry.versions.SearchVersions(request)
        names += ["/".join(each.name.split("/")[3::2]) for each in page.versions]
        token = page.next_page_token
        if not token:
            return names


async def update(registry: Registry, name: str, **fields: Any) -> pb.Version:
    """
    Set fields of a version.
    """
    content = pb.Version(name=f"{DEFAULT}/models/{name.replace('/', '/versions/')}", **fields)
    request = pb.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=list(fields)))
    return await registry.versions.UpdateVersion(request)


async def populate(registry: Registry) -> None:
    """
    Versions of two models of different origin.
    """
    await create(registry, "a")
    await create(registry, "b")
    await add_version(
        registry, "a", stage="Staging", source="s3://bucket/A_1", labels={"any key": "Vision=1", "n": "1"}
    )
    await add_version(registry, "b", lineage=pb.Lineage(run="run-1"), labels={"any key": "nlp"})
    await add_version(registry, "a", ready=False, lineage=pb.Lineage(run="run-2"), source="s3://bucket/B%2")
    await add_version(registry, "b", stage="Staging", run_link="https://x/1", source_model_id="m-1")


@pytest.fixture(scope="module")
async def populated(new_registry: Registry) -> Registry:
    """
    A registry with those versions.
    """
    await populate(new_registry)
    return new_registry


async def test_newest_update_first(registry: Registry) -> None:
    """
    Without an order the version that was updated last comes first, across models; of one model only its own.
    """
    await populate(registry)
    assert await search(registry) == ["b/2", "a/2", "b/1", "a/1"]
    await update(registry, "a/1", description="new")
    assert await search(registry) == ["a/1", "b/2", "a/2", "b/1"]
    assert await search(registry, parent=f"{DEFAULT}/models/a") == ["a/1", "a/2"]


async def test_equal_times(registry: Registry) -> None:
    """
    Versions of one moment are ordered by model, and of one model the newest comes first; pages say the same.
    """
    await import_items(registry, [item("y", versions=2), item("x", versions=3)])
    expected = ["x/3", "x/2", "x/1", "y/2", "y/1"]
    for size in (0, 1, 2):
        assert await search(registry, page_size=size) == expected
    assert await search(registry, order_by="number desc", page_size=2) == ["x/3", "x/2", "y/2", "x/1", "y/1"]
    assert await search(registry, order_by="model desc, number", page_size=2) == ["y/1", "y/2", "x/1", "x/2", "x/3"]
    assert await search(registry, order_by="create_time", page_size=3) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("model = a", "a/2 a/1"),
        ('model = "namespaces/default/models/b"', "b/2 b/1"),
        ("number >= 2", "b/2 a/2"),
        ("state = READY", "b/2 b/1 a/1"),
        ("state != READY", "a/2"),
        ("stage = Staging AND model = a", "a/1"),
        ('stage = ""', "a/2 b/1"),
        ("stage != Staging", ""),
        ("NOT stage = Staging", "a/2 b/1"),
        ("run = run-1 OR run = run-2", "a/2 b/1"),
        ("run:RUN", "a/2 b/1"),
        ("NOT run:*", "b/2 a/1"),
        ('source = "s3://bucket/A_1"', "a/1"),
        ('like(source, "s3://bucket/%")', "a/2 a/1"),
        ('like(source, "%/A\\\\_1")', "a/1"),
        ('like(source, "%/_\\\\%2")', "a/2"),
        ('like(source, "%/a\\\\_1")', ""),
        ('ilike(source, "%/a\\\\_1")', "a/1"),
        ('NOT like(source, "s3%")', "b/2 b/1"),
        ('labels."any key" = "Vision=1"', "a/1"),
        ('labels."any key" != nlp', "a/1"),
        ('labels."any key":*', "b/1 a/1"),
        ('labels:"any key"', "b/1 a/1"),
        ('ilike(labels."any key", "vis%")', "a/1"),
        ('NOT labels."any key" = nlp', "b/2 a/2 a/1"),
        ("labels.n = 1", "a/1"),
        ('run_link:"//x" AND source_model_id = m-1', "b/2"),
        ("actor = anonymous AND number = 1", "b/1 a/1"),
        ('create_time > "2020-01-01" AND update_time < "2100-01-01T00:00:00Z"', "b/2 a/2 b/1 a/1"),
    ],
)
async def test_filters(populated: Registry, wanted: str, expected: str) -> None:
    """
    The language of SearchModels on the fields of versions: what is not there makes a comparison false.
    """
    assert await search(populated, wanted) == expected.split()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("nonsense = 1", "at 1"),
        ("state = DELETED", "at 9"),
        ('like(state, "R%")', "at 13"),
        ('like(number, "1%")', "at 14"),
        ('like(source "x")', "at 13"),
        ("like(source, x)", "at 14"),
        ('like(source, "x"', "at 17"),
        ('like(source, "x\\\\")', "at 14"),
        ('labels."" = 1', "at 1"),
        ('labels."a\nb" = 1', "at 1"),
    ],
)
async def test_bad_filters(shared: Registry, wanted: str, said: str) -> None:
    """
    A mistake in a filter is told with its position.
    """
    with Failing() as failed:
        await search(shared, wanted)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields["filter"].startswith(said)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("order_by", {"order_by": "name"}),
        ("order_by", {"order_by": "number, number desc"}),
        ("order_by", {"order_by": "number down"}),
        ("page_size", {"page_size": -1}),
        ("page_token", {"page_token": "x"}),
        ("parent", {"parent": "namespaces/-"}),
        ("parent", {"parent": f"{M}/versions/1"}),
    ],
)
async def test_bad_requests(shared: Registry, field: str, more: dict[str, Any]) -> None:
    """
    A field that says nothing valid is named.
    """
    request = pb.SearchVersionsRequest(**{"parent": DEFAULT, **more})
    with Failing() as failed:
        await shared.versions.SearchVersions(request)
    assert list(failed.fields) == [field]


async def test_parents(registry: Registry) -> None:
    """
    A namespace or model that is not there is told; other namespaces are not searched.
    """
    await populate(registry)
    for parent, reason in (("namespaces/none", "NAMESPACE_NOT_FOUND"), (M, "MODEL_NOT_FOUND")):
        with Failing() as failed:
            await search(registry, parent=parent)
        assert failed.reason == reason
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="other"))
    assert await search(registry, parent="namespaces/other") == []


async def test_deleted(registry: Registry) -> None:
    """
    Deleted versions are not found, nor those of deleted models.
    """
    await populate(registry)
    await registry.versions.DeleteVersion(pb.DeleteVersionRequest(name=f"{DEFAULT}/models/a/versions/1"))
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/b"))
    assert await search(registry) == ["a/2"]
    assert await search(registry, parent=f"{DEFAULT}/models/b") == []


async def test_views(registry: Registry) -> None:
    """
    Artifacts come with the full view only; the size is that of the artifacts either way.
    """
    await create(registry, "m")
    artifact = pb.Artifact(path="w", sha256="a" * 64, size_bytes=7)
    made = await add_version(registry, "m", ready=False, artifacts=[artifact])
    for view, artifacts in ((pb.VERSION_VIEW_UNSPECIFIED, []), (pb.VERSION_VIEW_FULL, [artifact])):
        page = await registry.versions.SearchVersions(pb.SearchVersionsRequest(parent=DEFAULT, view=view))
        (version,) = page.versions
        assert (list(version.artifacts), version.size_bytes) == (artifacts, 7)
        del version.artifacts[:]
        version.artifacts.append(artifact)
        assert version == made


async def test_aliases(registry: Registry) -> None:
    """
    A page has the aliases that point at its versions, in its order; not those from before.
    """
    await populate(registry)
    await move(registry, "a", ("Prod", 1), ("old", 1))
    await move(registry, "b", ("b", 1), ("a", 1), ("c", 2))
    await move(registry, "a", ("old", 0))
    page = await registry.versions.SearchVersions(pb.SearchVersionsRequest(parent=DEFAULT))
    found = [(each.name.rpartition("/")[2], each.version.removeprefix(f"{DEFAULT}/models/")) for each in page.aliases]
    assert found == [("c", "b/versions/2"), ("a", "b/versions/1"), ("b", "b/versions/1"), ("Prod", "a/versions/1")]
    page = await registry.versions.SearchVersions(pb.SearchVersionsRequest(parent=DEFAULT, page_size=1))
    assert [each.name.rpartition("/")[2] for each in page.aliases] == ["c"]


async def test_versions_of_the_release_before(database: str) -> None:
    """
    What a program writes that does not know of this search is found, and what was there before the migration, too; the
    migration can be run again.
    """
    async with running(database) as registry:
        await populate(registry)
        insert = """
            INSERT INTO versions (model, number, state, description, artifacts, parent_version, training_data, run,
                                  git_commit, stage, labels, size_bytes, create_time, update_time, revision, octets)
            SELECT id, 3, 'READY', '', '[]', '', '{}', '', '', '', '{}', 0, now(), now(), 1, 96 FROM models
             WHERE model_id = 'a'
        """
        async with registry.owner() as connection:
            await connection.execute(insert)
            assert await search(registry) == ["a/3", "b/2", "a/2", "b/1", "a/1"]
            await connection.execute("UPDATE versions SET of_namespace = NULL, of_model = NULL")
            assert await search(registry) == []
            (file,) = FOLDER.glob("*_version_search.sql")
            number = int(file.name.partition("_")[0])
            await connection.execute("CREATE TEMPORARY TABLE later AS TABLE schema_migrations")
            await connection.execute("DELETE FROM later WHERE number <= $1", number)
            await connection.execute("DELETE FROM schema_migrations WHERE number >= $1", number)
            await migrate(connection, migrations(FOLDER)[:number])
            # The database goes to other tests.
            await connection.execute("INSERT INTO schema_migrations TABLE later")
        assert await search(registry) == ["a/3", "b/2", "a/2", "b/1", "a/1"]


async def test_large_versions(registry: Registry) -> None:
    """
    A page ends where the answer would become too large for a message.
    """
    await create(registry, "m")
    for _ in range(5):
        await add_version(registry, "m", annotations={f"k{n}": "x" * 99_000 for n in range(10)})
    page = await registry.versions.SearchVersions(pb.SearchVersionsRequest(parent=DEFAULT))
    assert 1 <= len(page.versions) < 5
    assert await search(registry) == [f"m/{n}" for n in range(5, 0, -1)]
