"""
Models over a real channel.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import models_pb2 as pb
from modelyard.registry.v1 import namespaces_pb2
from services.registry.tests.calls import DEFAULT, create, get, sql, update
from services.registry.tests.server import Failing, Registry, revision_of


async def test_create_then_get(registry: Registry) -> None:
    """
    A model is returned as it was created, with the fields that the server sets.
    """
    sent = pb.Model(
        display_name="ConvNeXt Base",
        description="Classifies images. ✓",
        owner="vision@example.org",
        task="image-classification",
        framework="pytorch",
        license="Apache-2.0",
        labels={"team": "vision"},
        annotations={"x": "y" * 100_000},
        parameter_count=88_591_464,
    )
    made = await create(registry, "convnext_base.fb", sent)
    found = await get(registry, "convnext_base.fb")
    assert made == found
    assert found.name == f"{DEFAULT}/models/convnext_base.fb"
    assert found.create_time == found.update_time
    assert found.revision == 2
    assert (found.actor, found.activity_time) == ("anonymous", found.update_time)
    for field in ("name", "create_time", "update_time", "revision", "etag", "actor", "activity_time"):
        found.ClearField(field)
    assert found == sent


async def test_answers_say_their_revision(registry: Registry) -> None:
    """
    A write says which revision it made, a read which one it reflects; also a read that finds nothing.
    """
    request = pb.CreateModelRequest(parent=DEFAULT, model_id="m")
    assert await revision_of(registry.models.CreateModel(request)) == 2
    assert await revision_of(registry.models.GetModel(pb.GetModelRequest(name=f"{DEFAULT}/models/m"))) == 2
    assert await revision_of(registry.models.ListModels(pb.ListModelsRequest(parent=DEFAULT))) == 2
    with Failing() as failed:
        await get(registry, "none")
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert failed.metadata["resource"] == f"{DEFAULT}/models/none"
    assert failed.trailing["x-revision"] == "2"


async def test_minimum_revision(registry: Registry) -> None:
    """
    A read with x-min-revision answers from that revision on, and is FAILED_PRECONDITION where there is none such.
    """
    await create(registry, "m")
    request = pb.GetModelRequest(name=f"{DEFAULT}/models/m")
    assert await registry.models.GetModel(request, metadata=(("x-min-revision", "2"),))
    with Failing() as failed:
        await registry.models.GetModel(request, metadata=(("x-min-revision", "3"),))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_NOT_REACHED")
    with Failing() as failed:
        await registry.models.GetModel(request, metadata=(("x-min-revision", "-1"),))
    assert list(failed.fields) == ["x-min-revision"]


async def test_create_twice(registry: Registry) -> None:
    """
    A model id can be used once; the second creation fails and takes no revision.
    """
    await create(registry, "m")
    with Failing() as failed:
        await create(registry, "m", pb.Model(owner="other"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS")
    assert (await get(registry, "m")).owner == ""
    assert (await create(registry, "n")).revision == 3


async def test_create_without_namespace(registry: Registry) -> None:
    """
    Models live in namespaces that exist.
    """
    with Failing() as failed:
        await registry.models.CreateModel(pb.CreateModelRequest(parent="namespaces/none", model_id="m"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND")


async def test_quota(registry: Registry) -> None:
    """
    A namespace holds no more models than its quota, however many try at once.
    """
    quota = namespaces_pb2.Namespace.Quota(max_models=3)
    namespace = namespaces_pb2.Namespace(quota=quota)
    await registry.namespaces.CreateNamespace(
        namespaces_pb2.CreateNamespaceRequest(namespace_id="small", namespace=namespace)
    )
    calls = [
        registry.models.CreateModel(pb.CreateModelRequest(parent="namespaces/small", model_id=f"m{n}"))
        for n in range(10)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refused) == 7
    assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert await sql(registry, "SELECT count(*) FROM models") == 3
    assert await sql(registry, "SELECT models FROM namespace_usage WHERE namespace_id = 'small'") == 3


async def test_validate_only_writes_nothing(registry: Registry) -> None:
    """
    validate_only answers as if it had been done, without an etag that could ever match, and leaves no trace.
    """
    made = await registry.models.CreateModel(
        pb.CreateModelRequest(parent=DEFAULT, model_id="m", model=pb.Model(owner="a"), validate_only=True)
    )
    assert (made.name, made.owner, made.revision, made.etag) == (f"{DEFAULT}/models/m", "a", 0, "")
    with Failing() as failed:
        await get(registry, "m")
    assert failed.trailing["x-revision"] == "1"
    assert await sql(registry, "SELECT count(*) FROM audit") == 1
    await create(registry, "m")
    with Failing() as failed:
        await registry.models.CreateModel(pb.CreateModelRequest(parent=DEFAULT, model_id="m", validate_only=True))
    assert failed.reason == "MODEL_EXISTS"
    request = pb.UpdateModelRequest(
        model=pb.Model(name=f"{DEFAULT}/models/m", owner="b"),
        update_mask=FieldMask(paths=["owner"]),
        validate_only=True,
    )
    assert (await registry.models.UpdateModel(request)).owner == "b"
    assert (await get(registry, "m")).owner == ""


async def test_update_changes_what_the_mask_names(registry: Registry) -> None:
    """
    Fields outside of the mask stay, whatever the request says about them.
    """
    before = await create(registry, "m", pb.Model(owner="a", task="t", labels={"k": "1", "l": "2"}))
    after = await update(registry, "m", pb.Model(owner="b", labels={"k": "3"}, license="MIT"), ["owner", "labels"])
    assert (after.owner, after.task, dict(after.labels), after.license) == ("b", "t", {"k": "3"}, "")
    assert after.revision == before.revision + 1
    assert after.create_time == before.create_time
    assert after.update_time.ToNanoseconds() > before.update_time.ToNanoseconds()
    assert after == await get(registry, "m")


async def test_update_all(registry: Registry) -> None:
    """
    The mask * copies every field of the request, including empty ones.
    """
    await create(registry, "m", pb.Model(owner="a", task="t", parameter_count=5))
    after = await update(registry, "m", pb.Model(owner="b"), ["*"])
    assert (after.owner, after.task, after.parameter_count) == ("b", "", 0)


async def test_etag(registry: Registry) -> None:
    """
    Of two updates of the same state, the second one is ABORTED.
    """
    made = await create(registry, "m")
    await update(registry, "m", pb.Model(owner="a", etag=made.etag), ["owner"])
    with Failing() as failed:
        await update(registry, "m", pb.Model(owner="b", etag=made.etag), ["owner"])
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await get(registry, "m")).owner == "a"


@pytest.mark.parametrize(
    ("paths", "field"),
    [
        ([], "update_mask"),
        (["nothing"], "update_mask"),
        (["name"], "update_mask"),
        (["revision"], "update_mask"),
        (["labels."], "update_mask"),
        (["owner.team"], "update_mask"),
        (["labels", "labels.team"], "update_mask"),
        (["*", "task"], "update_mask"),
        (["owner"], "model.owner"),
    ],
)
async def test_update_refuses(registry: Registry, paths: list[str], field: str) -> None:
    """
    An empty mask, one with an unknown or output-only field, and an invalid value are rejected and named.
    """
    await create(registry, "m")
    with Failing() as failed:
        await update(registry, "m", pb.Model(owner="x" * 257), paths)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]
    assert await sql(registry, "SELECT value FROM revision") == 2


async def test_batch_get_keeps_the_order(registry: Registry) -> None:
    """
    Models come in the order of the request, repetitions included; a missing one is named.
    """
    for name in "abc":
        await create(registry, name)
    names = [f"{DEFAULT}/models/{name}" for name in "cabc"]
    found = await registry.models.BatchGetModels(pb.BatchGetModelsRequest(parent=DEFAULT, names=names))
    assert [model.name for model in found.models] == names
    with Failing() as failed:
        await registry.models.BatchGetModels(
            pb.BatchGetModelsRequest(parent=DEFAULT, names=[*names, f"{DEFAULT}/models/x", f"{DEFAULT}/models/y"])
        )
    assert (failed.reason, failed.metadata["resource"]) == ("MODEL_NOT_FOUND", f"{DEFAULT}/models/x")


async def test_concurrent_updates_all_count(registry: Registry) -> None:
    """
    Updates of different fields at the same time do not undo each other, and every one has a revision of its own.
    """
    await create(registry, "m")
    fields = ["display_name", "description", "owner", "task", "framework", "license"] * 4
    texts: list[Any] = [{field: field} for field in fields]
    calls = [update(registry, "m", pb.Model(**text), list(text)) for text in texts]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.revision for answer in answers) == list(range(3, 3 + len(fields)))
    found = await get(registry, "m")
    assert all(getattr(found, field) == field for field in fields)


async def test_every_write_is_audited(registry: Registry) -> None:
    """
    The audit has actor, action and the images before and after of every write, with its revision, and cannot be
    changed.
    """
    request = pb.CreateModelRequest(parent=DEFAULT, model_id="m", request_id="r-1", model=pb.Model(owner="a"))
    await registry.models.CreateModel(request, metadata=(("x-modelyard-subject", "ann@example.org"),))
    await update(registry, "m", pb.Model(owner="b"), ["owner"])
    rows = await sql(
        registry,
        "SELECT json_agg(json_build_array(revision, actor, action, resource, before->>'owner', after->>'owner')"
        " ORDER BY revision)::text FROM audit WHERE revision > 1",
    )
    name = f"{DEFAULT}/models/m"
    assert rows == (
        f'[[2, "ann@example.org", "CreateModel", "{name}", null, "a"], '
        f'[3, "anonymous", "UpdateModel", "{name}", "a", "b"]]'
    )
    assert await sql(registry, "SELECT request_id FROM audit WHERE revision = 2") == "r-1"
    with pytest.raises(Exception, match="append-only"):
        await sql(registry, "DELETE FROM audit RETURNING 1")
