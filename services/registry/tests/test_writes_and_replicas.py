"""
What a write decides on is read from the primary, however far a replica is behind; and writes honour `x-min-revision`.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest

from modelyard.registry.v1 import models_pb2, versions_pb2
from services.registry.tests.calls import DEFAULT, create, get, sql
from services.registry.tests.server import Failing, Registry, revision_of
from services.registry.tests.test_replicas import Pair, pair, registry_on  # noqa: F401 - the fixture


async def test_a_version_is_finalized_while_the_replica_lags(pair: Pair) -> None:  # noqa: F811 - the fixture
    """
    FinalizeVersion right after CreateVersion, and after a change of a PENDING version, does not ask a replica that has
    yet to hear of them.
    """
    async with registry_on(pair) as registry:
        await create(registry, "finalized")
        await pair.pause()
        try:
            parent = f"{DEFAULT}/models/finalized"
            made = await registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=parent))
            ready = await registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
            assert ready.state == versions_pb2.Version.STATE_READY
        finally:
            await pair.resume()


def _update(request_id: str = "") -> models_pb2.UpdateModelRequest:
    model = models_pb2.Model(name=f"{DEFAULT}/models/m", owner="ann")
    request = models_pb2.UpdateModelRequest(model=model, request_id=request_id)
    request.update_mask.paths.append("owner")
    return request


async def test_a_write_that_has_seen_more_than_there_is_is_refused(registry: Registry) -> None:
    """
    A write with an `x-min-revision` that the head has reached is done; with a later one it is FAILED_PRECONDITION
    REVISION_NOT_REACHED, as a read, and nothing is written: whoever has seen what is lost must not build on it.
    """
    made = await create(registry, "m")
    update = registry.models.UpdateModel
    seen = await revision_of(update(_update(), metadata=(("x-min-revision", str(made.revision)),)))
    assert seen == made.revision + 1
    with Failing() as failed:
        await update(_update(request_id="lost"), metadata=(("x-min-revision", str(seen + 5)),))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_NOT_REACHED")
    assert failed.metadata["revision"] == str(seen)
    assert (await get(registry, "m")).revision == seen
    assert not await sql(registry, "SELECT count(*) FROM requests")
    # Its id was not used up, and an answer that it has is not lost by such a call.
    assert await revision_of(update(_update(request_id="lost"))) == seen + 1
    with Failing() as failed:
        await update(_update(request_id="lost"), metadata=(("x-min-revision", str(seen + 5)),))
    assert failed.reason == "REVISION_NOT_REACHED"
    assert await revision_of(update(_update(request_id="lost"))) == seen + 1


async def test_a_write_of_what_is_lost_is_told_that_it_is_lost(registry: Registry) -> None:
    """
    Where what is written to does not exist, either, the error is that of the revision: as with reads.
    """
    with Failing() as failed:
        await registry.models.UpdateModel(_update(), metadata=(("x-min-revision", "1000"),))
    assert failed.reason == "REVISION_NOT_REACHED"
    finalize = versions_pb2.FinalizeVersionRequest(name=f"{DEFAULT}/models/m/versions/1")
    with Failing() as failed:
        await registry.versions.FinalizeVersion(finalize, metadata=(("x-min-revision", "1000"),))
    assert failed.reason == "REVISION_NOT_REACHED"


@pytest.mark.parametrize("revision", ["x", "-1", ""])
async def test_a_write_with_a_revision_that_is_none(shared: Registry, revision: str) -> None:
    """
    An `x-min-revision` that is no number is refused, by writes as by reads.
    """
    with Failing() as failed:
        await shared.models.UpdateModel(_update(), metadata=(("x-min-revision", revision),))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-min-revision" in failed.fields


async def test_one_of_a_group_that_has_seen_too_much(registry: Registry) -> None:
    """
    Writes that go together are judged each by what it has seen itself.
    """
    await create(registry, "m")
    names = [f"grouped-{n}" for n in range(12)]
    calls = [
        registry.models.CreateModel(
            models_pb2.CreateModelRequest(parent=DEFAULT, model_id=name),
            metadata=(("x-min-revision", "1000000"),) if n % 3 == 0 else (),
        )
        for n, name in enumerate(names)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused == [0, 3, 6, 9]


async def test_a_retry_of_finalize_after_a_purge(registry: Registry) -> None:
    """
    FinalizeVersion with a request id that was answered gives that answer again, also when the version is gone since;
    the id of another request is refused before anything is looked at.
    """
    await create(registry, "m")
    parent = f"{DEFAULT}/models/m"
    made = await registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=parent))
    finalize = versions_pb2.FinalizeVersionRequest(name=made.name, request_id="once")
    first = await registry.versions.FinalizeVersion(finalize)
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=parent))
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=parent))
    assert await registry.versions.FinalizeVersion(finalize) == first
    assert await revision_of(registry.versions.FinalizeVersion(finalize)) == first.revision
    other = versions_pb2.FinalizeVersionRequest(name=f"{parent}/versions/9", request_id="once")
    with Failing() as failed:
        await registry.versions.FinalizeVersion(other)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
