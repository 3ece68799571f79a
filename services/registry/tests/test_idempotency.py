"""
Requests with an id: done once, however often they are sent.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from modelyard.registry.v1 import (
    aliases_pb2,
    evaluations_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.registry.tests.calls import DEFAULT, add_version, create, result, sql
from services.registry.tests.server import Failing, Registry, revision_of

MODEL = f"{DEFAULT}/models/m"

# Every mutation of the slice, and a change that makes it another request.
MUTATIONS: dict[str, tuple[Message, Message]] = {
    "namespaces.CreateNamespace": (
        namespaces_pb2.CreateNamespaceRequest(namespace_id="n"),
        namespaces_pb2.CreateNamespaceRequest(namespace_id="o"),
    ),
    "models.CreateModel": (
        models_pb2.CreateModelRequest(
            parent=DEFAULT, model_id="new", model=models_pb2.Model(labels={"a": "1", "b": "2"})
        ),
        models_pb2.CreateModelRequest(parent=DEFAULT, model_id="new", model=models_pb2.Model(labels={"a": "1"})),
    ),
    "models.UpdateModel": (
        models_pb2.UpdateModelRequest(
            model=models_pb2.Model(name=MODEL, owner="a"), update_mask=FieldMask(paths=["owner"])
        ),
        models_pb2.UpdateModelRequest(
            model=models_pb2.Model(name=MODEL, owner="b"), update_mask=FieldMask(paths=["owner"])
        ),
    ),
    "versions.CreateVersion": (
        versions_pb2.CreateVersionRequest(parent=MODEL),
        versions_pb2.CreateVersionRequest(parent=MODEL, version=versions_pb2.Version(stage="x")),
    ),
    "versions.FinalizeVersion": (
        versions_pb2.FinalizeVersionRequest(name=f"{MODEL}/versions/1"),
        versions_pb2.FinalizeVersionRequest(name=f"{MODEL}/versions/2"),
    ),
    "versions.CopyVersion": (
        versions_pb2.CopyVersionRequest(parent=MODEL, source=f"{MODEL}/versions/3"),
        versions_pb2.CopyVersionRequest(parent=MODEL, source=f"{MODEL}/versions/1"),
    ),
    "versions.DeleteVersion": (
        versions_pb2.DeleteVersionRequest(name=f"{MODEL}/versions/1"),
        versions_pb2.DeleteVersionRequest(name=f"{MODEL}/versions/1", force=True),
    ),
    "aliases.MoveAliases": (
        aliases_pb2.MoveAliasesRequest(
            parent=MODEL, moves=[aliases_pb2.MoveAliasesRequest.Move(alias_id="a", version=f"{MODEL}/versions/3")]
        ),
        aliases_pb2.MoveAliasesRequest(parent=MODEL, moves=[aliases_pb2.MoveAliasesRequest.Move(alias_id="a")]),
    ),
    "evaluations.RecordEvaluations": (
        evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=[result("m", 1, "a", "b", 1)]),
        evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=[result("m", 1, "a", "b", 2)]),
    ),
}

# What is done in more than one write.
_REVISIONS = {"versions.CopyVersion": 2}


@pytest.fixture
async def stocked(registry: Registry) -> Registry:
    """
    A registry in which every mutation can be done.
    """
    await create(registry, "m")
    await add_version(registry, "m", ready=False)
    await add_version(registry, "m", ready=False)
    await add_version(registry, "m")
    return registry


def call(registry: Registry, method: str, request: Message, identity: str, **more: Any) -> Any:
    """
    The call of a method with a request id.
    """
    stub, name = method.split(".")
    sent = type(request)()
    sent.CopyFrom(request)
    sent.request_id = identity  # type: ignore[attr-defined]
    return getattr(getattr(registry, stub), name)(sent, **more)


@pytest.mark.parametrize("method", MUTATIONS)
async def test_a_retry_gets_the_first_answer(stocked: Registry, method: str) -> None:
    """
    The same id with the same content is answered like the first time, revision included, and does nothing.
    """
    request, _ = MUTATIONS[method]
    first = await call(stocked, method, request, "r")
    revision = await sql(stocked, "SELECT value FROM revision")
    # Something else happens in between, so that the answer would be another one now.
    await create(stocked, "between")
    retry = call(stocked, method, request, "r")
    assert await retry == first
    assert await revision_of(retry) == revision
    assert await sql(stocked, "SELECT value FROM revision") == revision + 1


@pytest.mark.parametrize("method", MUTATIONS)
async def test_another_request_with_the_same_id(stocked: Registry, method: str) -> None:
    """
    The same request id with other content, or with another method, is rejected and does nothing.
    """
    request, other = MUTATIONS[method]
    await call(stocked, method, request, "r")
    revision = await sql(stocked, "SELECT value FROM revision")
    with Failing() as failed:
        await call(stocked, method, other, "r")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    with Failing() as failed:
        await create(stocked, "x", request_id="r")
    assert failed.reason == "REQUEST_ID_REUSED"
    assert await sql(stocked, "SELECT value FROM revision") == revision


@pytest.mark.parametrize("method", MUTATIONS)
async def test_concurrent_retries(stocked: Registry, method: str) -> None:
    """
    Sent twenty times at once, it is done once, and everybody gets the same answer.
    """
    revision = await sql(stocked, "SELECT value FROM revision")
    request, _ = MUTATIONS[method]
    answers = await asyncio.gather(*(call(stocked, method, request, "r") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert await sql(stocked, "SELECT value FROM revision") == revision + _REVISIONS.get(method, 1)


async def test_a_failed_request_may_be_sent_again(stocked: Registry) -> None:
    """
    Only what was done is remembered: what failed is tried anew.
    """
    request = versions_pb2.CreateVersionRequest(parent=f"{DEFAULT}/models/later")
    with Failing() as failed:
        await call(stocked, "versions.CreateVersion", request, "r")
    assert failed.reason == "MODEL_NOT_FOUND"
    await create(stocked, "later")
    assert (await call(stocked, "versions.CreateVersion", request, "r")).number == 1


async def test_ids_belong_to_their_caller(stocked: Registry) -> None:
    """
    Two callers may use the same id for different things.
    """
    first, other = MUTATIONS["versions.CreateVersion"]
    one = await call(stocked, "versions.CreateVersion", first, "r", metadata=(("x-modelyard-subject", "ann"),))
    two = await call(stocked, "versions.CreateVersion", other, "r", metadata=(("x-modelyard-subject", "bob"),))
    assert (one.number, two.number) == (4, 5)


async def test_remembered_for_a_day(stocked: Registry) -> None:
    """
    After 24 hours an id may be used again.
    """
    request, _ = MUTATIONS["versions.CreateVersion"]
    await call(stocked, "versions.CreateVersion", request, "r")
    await sql(stocked, "UPDATE requests SET create_time = now() - interval '23 h 59 min' RETURNING 1")
    assert (await call(stocked, "versions.CreateVersion", request, "r")).number == 4
    await sql(stocked, "UPDATE requests SET create_time = now() - interval '24 h 1 min' RETURNING 1")
    assert (await call(stocked, "versions.CreateVersion", request, "r")).number == 5


@pytest.mark.parametrize("identity", ["x" * 129, "a\0b", "a\nb"])
async def test_bad_ids(shared: Registry, identity: str) -> None:
    """
    An id is short and printable.
    """
    for method, (request, _) in MUTATIONS.items():
        with Failing() as failed:
            await call(shared, method, request, identity)
        assert list(failed.fields) == ["request_id"]
