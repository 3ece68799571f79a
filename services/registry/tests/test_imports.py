"""
Imports over a real channel.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from modelyard.registry.v1 import evaluations_pb2, models_pb2, namespaces_pb2, versions_pb2
from modelyard.registry.v1 import imports_pb2 as pb
from services.registry.tests.calls import DEFAULT, create, get, import_items, revisions, sql
from services.registry.tests.server import Failing, Registry

Item = pb.ImportModelsRequest.Item
Evaluation = evaluations_pb2.Evaluation
Version = versions_pb2.Version
SHA256 = "a" * 64


def item(name: str, versions: int = 2, results: int = 3) -> pb.ImportModelsRequest.Item:
    """
    A model with versions and results.
    """
    return Item(
        model_id=name,
        model=models_pb2.Model(description=f"about {name}", labels={"k": name.lower()}, parameter_count=5),
        versions=[Version(description=f"v{n}", labels={"n": str(n)}) for n in range(1, versions + 1)],
        evaluations=[
            Evaluation(
                version=str(1 + n % versions), dataset="imagenet", metric="top1", value=n, parameters={"n": str(n)}
            )
            for n in range(results)
        ],
    )


async def test_a_batch_is_one_revision(registry: Registry) -> None:
    """
    Everything in a batch is written with one revision, and answered batch by batch.
    """
    answers = await import_items(registry, [item("a"), item("b")], [item("c", results=0)])
    assert [
        (each.revision, each.created_models, each.created_versions, each.recorded_evaluations) for each in answers
    ] == [(2, 2, 4, 6), (3, 1, 2, 0)]
    found = await get(registry, "a")
    assert (found.description, dict(found.labels), found.latest_version, found.revision) == (
        "about a",
        {"k": "a"},
        2,
        2,
    )
    version = await registry.versions.GetVersion(versions_pb2.GetVersionRequest(name=f"{found.name}/versions/2"))
    assert (version.description, dict(version.labels), version.state) == ("v2", {"n": "2"}, version.STATE_READY)
    listed = await registry.evaluations.ListEvaluations(evaluations_pb2.ListEvaluationsRequest(parent=found.name))
    assert [(each.version[-1], each.value, dict(each.parameters)) for each in listed.evaluations] == [
        ("1", 0, {"n": "0"}),
        ("2", 1, {"n": "1"}),
        ("1", 2, {"n": "2"}),
    ]
    told = await revisions(registry, 2, 3)
    assert [[(change.resource, change.subtree) for change in each.changes] for each in told] == [
        [(f"{DEFAULT}/models/a", True), (f"{DEFAULT}/models/b", True)],
        [(f"{DEFAULT}/models/c", True)],
    ]
    assert await sql(registry, "SELECT count(*) FROM audit WHERE revision > 1") == 3


async def test_versions_with_artifacts_are_pending(registry: Registry) -> None:
    """
    What has artifacts has to be verified, so it is imported PENDING; lineage within the batch is fine.
    """
    artifact = versions_pb2.Artifact(path="a", sha256=SHA256, size_bytes=5)
    lineage = versions_pb2.Lineage(parent_version=f"{DEFAULT}/models/a/versions/1", training_data=["x", "y"])
    versions = [Version(artifacts=[artifact]), Version(lineage=lineage)]
    await import_items(registry, [Item(model_id="a", versions=versions)])
    listed = await registry.versions.ListVersions(versions_pb2.ListVersionsRequest(parent=f"{DEFAULT}/models/a"))
    second, first = listed.versions
    assert (first.state, first.artifacts[0], first.size_bytes) == (first.STATE_PENDING, artifact, 5)
    assert (second.state, second.lineage) == (second.STATE_READY, lineage)


async def test_existing_models(registry: Registry) -> None:
    """
    A model that exists fails its batch, all of it, unless the batch says to skip such models.
    """
    await create(registry, "b", models_pb2.Model(owner="mine"))
    with Failing() as failed:
        await import_items(registry, [item("a"), item("b")])
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS")
    assert failed.metadata["resource"] == f"{DEFAULT}/models/b"
    assert await sql(registry, "SELECT count(*) FROM models") == 1
    (answer,) = await import_items(registry, [item("a"), item("b")], skip_existing=True)
    assert (answer.created_models, answer.skipped_models, answer.created_versions) == (1, 1, 2)
    assert (await get(registry, "b")).owner == "mine"
    (again,) = await import_items(registry, [item("a"), item("b")], skip_existing=True)
    assert (again.revision, again.created_models, again.skipped_models) == (answer.revision, 0, 2)


async def test_earlier_batches_stay(registry: Registry) -> None:
    """
    A bad batch ends the stream; the ones before it are committed.
    """
    call: Any = registry.imports.ImportModels()  # type: ignore[call-arg]  # its stubs want an iterator
    await call.write(pb.ImportModelsRequest(parent=DEFAULT, items=[item("a")]))
    assert (await call.read()).created_models == 1
    await call.write(pb.ImportModelsRequest(parent="namespaces/other", items=[item("b")]))
    with Failing() as failed:
        await call.read()
        await call
    assert list(failed.fields) == ["parent"]
    assert await get(registry, "a")


async def test_quota_and_namespace(registry: Registry) -> None:
    """
    Imports count against the namespace's quota; a namespace that is not there is NOT_FOUND.
    """
    namespace = namespaces_pb2.Namespace(quota=namespaces_pb2.Namespace.Quota(max_models=1))
    await registry.namespaces.CreateNamespace(
        namespaces_pb2.CreateNamespaceRequest(namespace_id="small", namespace=namespace)
    )

    async def into(parent: str) -> pb.ImportModelsResponse:
        call = registry.imports.ImportModels(
            iter([pb.ImportModelsRequest(parent=parent, items=[item("a"), item("b")])])
        )
        return await anext(aiter(call))

    with Failing() as failed:
        await into("namespaces/small")
    assert failed.reason == "MODEL_QUOTA"
    with Failing() as failed:
        await into("namespaces/none")
    assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_concurrent_imports_do_not_double(registry: Registry) -> None:
    """
    The same models imported by several at once are made once.
    """
    items = [item(f"m{n}") for n in range(20)]
    answers = await asyncio.gather(*(import_items(registry, items, skip_existing=True) for _ in range(6)))
    assert sum(each.created_models for (each,) in answers) == 20
    assert await sql(registry, "SELECT count(*) FROM evaluations") == 60
    assert await sql(registry, "SELECT models FROM namespace_usage") == 20


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        (["items"], []),
        (["items"], [Item(model_id=f"m{n}") for n in range(1001)]),
        (["items[1].model_id"], [Item(model_id="a"), Item(model_id="a")]),
        (["items[0].model_id", "items[1].model_id"], [Item(), Item(model_id=".a")]),
        (['items[0].model.labels["a\\n"]'], [Item(model_id="a", model=models_pb2.Model(labels={"a\n": "x"}))]),
        (["items[0].versions[0].stage"], [Item(model_id="a", versions=[Version(stage="x" * 65)])]),
        (["items[0].evaluations[0].version"], [Item(model_id="a", evaluations=[Evaluation(dataset="a", metric="b")])]),
        (
            ["items[0].evaluations[0].version"],
            [Item(model_id="a", versions=[Version()], evaluations=[Evaluation(version="2", dataset="a", metric="b")])],
        ),
        (
            ["items[0].evaluations[0].dataset", "items[0].evaluations[0].metric", "items[0].evaluations[0].value"],
            [Item(model_id="a", versions=[Version()], evaluations=[Evaluation(version="1", value=float("inf"))])],
        ),
        (
            ["items"],
            [
                Item(
                    model_id="a",
                    versions=[Version()],
                    evaluations=[Evaluation(version="1", dataset="a", metric="b")] * 20_001,
                )
            ],
        ),
    ],
)
async def test_bad_items(shared: Registry, fields: list[str], items: list[pb.ImportModelsRequest.Item]) -> None:
    """
    A malformed item is rejected, and its index is named.
    """
    with Failing() as failed:
        await import_items(shared, items)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == fields
