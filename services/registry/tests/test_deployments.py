"""
Deployments over a real channel.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import audit_pb2, models_pb2
from modelyard.registry.v1 import deployments_pb2 as pb
from services.registry.model.deployments import TRANSITIONS, DeploymentState
from services.registry.tests.calls import DEFAULT, add_version, create, deploy, revisions, sql, status
from services.registry.tests.server import Failing, Registry, running

# How to come to each state by legal moves.
_PATHS = {
    "PENDING": [],
    "ROLLING_OUT": ["ROLLING_OUT"],
    "LIVE": ["ROLLING_OUT", "LIVE"],
    "DEGRADED": ["ROLLING_OUT", "LIVE", "DEGRADED"],
    "FAILED": ["FAILED"],
    "ROLLED_BACK": ["ROLLING_OUT", "ROLLED_BACK"],
    "RETIRED": ["FAILED", "RETIRED"],
}


@pytest.fixture
async def ready(registry: Registry) -> Registry:
    """
    A registry with a model m that has a READY version.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    return registry


async def get(registry: Registry, deployment: str) -> pb.Deployment:
    """
    Get a deployment of `default`.
    """
    return await registry.deployments.GetDeployment(pb.GetDeploymentRequest(name=f"{DEFAULT}/deployments/{deployment}"))


async def listed(registry: Registry, **request: Any) -> list[str]:
    """
    The ids of the deployments that a list finds, two by two.
    """
    names, token = [], ""
    while True:
        page = await registry.deployments.ListDeployments(
            pb.ListDeploymentsRequest(parent=DEFAULT, page_size=2, page_token=token, **request)
        )
        names += [each.name.rpartition("/")[2] for each in page.deployments]
        token = page.next_page_token
        if not token:
            return names


async def test_create_then_get(ready: Registry) -> None:
    """
    A deployment is returned as it was created, PENDING, with the fields that the server sets.
    """
    made = await deploy(ready, "d", "m", status_message="soon", endpoint="grpc://m:1", replicas=3, labels={"a": "b"})
    assert made == await get(ready, "d")
    assert made.state == pb.Deployment.STATE_PENDING
    assert (made.version, made.environment) == (f"{DEFAULT}/models/m/versions/1", "production")
    assert (made.status_message, made.endpoint, made.replicas, made.labels["a"]) == ("soon", "grpc://m:1", 3, "b")
    with Failing() as failed:
        await deploy(ready, "d", "m")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "DEPLOYMENT_EXISTS")


async def test_only_ready_versions(ready: Registry) -> None:
    """
    Only an existing READY version of a model that is not deleted can be deployed.
    """
    with Failing() as failed:
        await deploy(ready, "d", "none")
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    await create(ready, "n")
    await add_version(ready, "n", ready=False)
    with Failing() as failed:
        await deploy(ready, "d", "n")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NOT_READY")
    await ready.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m"))
    with Failing() as failed:
        await deploy(ready, "d", "m")
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")


async def test_a_deleted_model_runs_nowhere(registry: Registry) -> None:
    """
    A model is deleted or deployed, or a deployment of it brought back, but never both, whatever process does it.
    """
    async with running(registry.database) as other:
        for turn in range(12):
            model, here, there = f"m{turn}", *((registry, other) if turn % 2 else (other, registry))
            await create(registry, model)
            await add_version(registry, model)
            await deploy(registry, f"old-{turn}", model)
            await status(registry, f"old-{turn}", "FAILED")
            await asyncio.gather(
                here.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/{model}")),
                deploy(there, f"new-{turn}", model),
                status(here, f"old-{turn}", "ROLLING_OUT"),
                return_exceptions=True,
            )
    both = """
SELECT count(*) FROM deployments JOIN models ON models.id = deployments.model
 WHERE delete_time IS NOT NULL AND state NOT IN ('FAILED', 'ROLLED_BACK', 'RETIRED')
"""
    assert await sql(registry, both) == 0


async def test_bad_fields(shared: Registry) -> None:
    """
    Everything that is wrong is named at once.
    """
    content = pb.Deployment(version="namespaces/other/models/m/versions/1", environment="P", replicas=-1)
    with Failing() as failed:
        await shared.deployments.CreateDeployment(
            pb.CreateDeploymentRequest(parent=DEFAULT, deployment_id="D", deployment=content)
        )
    assert sorted(failed.fields) == [
        "deployment.environment",
        "deployment.replicas",
        "deployment.version",
        "deployment_id",
    ]
    with Failing() as failed:
        await shared.deployments.UpdateDeploymentStatus(
            pb.UpdateDeploymentStatusRequest(name=f"{DEFAULT}/deployments/d", state=99)  # type: ignore[arg-type]
        )
    assert list(failed.fields) == ["state"]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(DeploymentState, DeploymentState)))
async def test_transitions(full: Registry, before: DeploymentState, after: DeploymentState) -> None:
    """
    Of all pairs of states the legal transitions succeed, as does staying in a state; the others are rejected and change
    nothing.
    """
    name = f"t-{before}-{after}".lower()
    await deploy(full, name, "n")
    for state in _PATHS[before]:
        await status(full, name, state)
    if after in TRANSITIONS[before] or after is before:
        moved = await status(full, name, after, "why")
        assert (moved.state, moved.status_message) == (pb.Deployment.State.Value(f"STATE_{after}"), "why")
        assert moved == await get(full, name)
        return
    found = await get(full, name)
    with Failing() as failed:
        await status(full, name, after)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")
    assert (failed.metadata["from"], failed.metadata["to"]) == (before, after)
    assert await get(full, name) == found


async def test_concurrent_updates(ready: Registry) -> None:
    """
    Concurrent transitions each see a legal state: the audit shows one legal path.
    """
    await deploy(ready, "d", "m")
    states = [state for state in DeploymentState for _ in range(6)]
    await asyncio.gather(*(status(ready, "d", state) for state in states), return_exceptions=True)
    made = await deploy(ready, "e", "m")
    wins = await asyncio.gather(
        *(status(ready, "e", "ROLLING_OUT", etag=made.etag) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, pb.Deployment) for each in wins) == 1
    path = await sql(
        ready,
        """
        SELECT array_agg((before ->> 'state') || '>' || (after ->> 'state') ORDER BY revision) FROM audit
         WHERE action = 'UpdateDeploymentStatus' AND resource LIKE '%/d'
        """,
    )
    at = "PENDING"
    for step in path:
        start, _, end = step.partition(">")
        assert start == at
        assert end == start or DeploymentState(end) in TRANSITIONS[DeploymentState(start)]
        at = end


async def test_list(ready: Registry) -> None:
    """
    By name, of all, of a model, of an environment, or both.
    """
    await create(ready, "n")
    await add_version(ready, "n")
    for deployment, model, environment in (("a", "m", "production"), ("b", "n", "production"), ("c", "m", "staging")):
        await deploy(ready, deployment, model, environment)
    assert await listed(ready) == ["a", "b", "c"]
    assert await listed(ready, model=f"{DEFAULT}/models/m") == ["a", "c"]
    assert await listed(ready, environment="production") == ["a", "b"]
    assert await listed(ready, environment="production", model=f"{DEFAULT}/models/m") == ["a"]
    assert await listed(ready, environment="nowhere") == []


async def test_a_live_deployment_holds_its_model(ready: Registry) -> None:
    """
    A model that is deployed cannot be deleted; once it is retired it can, and then its deployments run nothing again.
    """
    await deploy(ready, "d", "m")
    await deploy(ready, "e", "m")
    delete = models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m")
    with Failing() as failed:
        await ready.models.DeleteModel(delete)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_DEPLOYED")
    assert failed.metadata["deployment"] == f"{DEFAULT}/deployments/d"
    await status(ready, "d", "FAILED")
    await status(ready, "e", "FAILED")
    await ready.models.DeleteModel(delete)
    with Failing() as failed:
        await status(ready, "d", "ROLLING_OUT")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_DELETED")
    await status(ready, "d", "RETIRED")


async def test_watch(ready: Registry) -> None:
    """
    A watcher receives the current state, then every later one, never an older one, until the deployment is deleted.
    """
    await deploy(ready, "d", "m")
    call: Any = ready.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=f"{DEFAULT}/deployments/d"))
    told = [(await call.read()).deployment]
    assert told[0].state == pb.Deployment.STATE_PENDING
    await status(ready, "d", "ROLLING_OUT")
    told.append((await call.read()).deployment)
    for state in ("LIVE", "DEGRADED", "LIVE", "RETIRED"):
        await status(ready, "d", state)
    while told[-1].state != pb.Deployment.STATE_RETIRED:
        told.append((await call.read()).deployment)
    assert [each.revision for each in told] == sorted({each.revision for each in told})
    await ready.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m"))
    await ready.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{DEFAULT}/models/m"))
    with Failing() as failed:
        await call.read()
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "DEPLOYMENT_NOT_FOUND")


async def test_watchers_of_a_busy_deployment(ready: Registry) -> None:
    """
    However fast the state changes, every watcher ends with the last one and never goes backwards.
    """
    await deploy(ready, "d", "m")

    async def watch() -> list[int]:
        call: Any = ready.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=f"{DEFAULT}/deployments/d"))
        seen: list[int] = []
        async for message in call:
            seen.append(message.deployment.revision)
            if message.deployment.status_message == "last":
                call.cancel()
                break
        return seen

    watchers = [asyncio.create_task(watch()) for _ in range(10)]
    await asyncio.sleep(0.1)
    for number in range(60):
        await status(ready, "d", "PENDING", f"step {number}")
    await status(ready, "d", "PENDING", "last")
    async with asyncio.timeout(10):
        for seen in await asyncio.gather(*watchers):
            assert seen == sorted(set(seen))


async def change(registry: Registry, deployment: str, *paths: str, etag: str = "", **fields: Any) -> pb.Deployment:
    """
    Update fields of a deployment of `default`; those that are given, unless others are named.
    """
    content = pb.Deployment(name=f"{DEFAULT}/deployments/{deployment}", etag=etag, **fields)
    mask = FieldMask(paths=list(paths) or list(fields))
    return await registry.deployments.UpdateDeployment(pb.UpdateDeploymentRequest(deployment=content, update_mask=mask))


async def remove(registry: Registry, deployment: str, **more: Any) -> None:
    """
    Delete a deployment of `default`.
    """
    request = pb.DeleteDeploymentRequest(name=f"{DEFAULT}/deployments/{deployment}", **more)
    await registry.deployments.DeleteDeployment(request)


async def test_update(ready: Registry) -> None:
    """
    The fields of the mask are changed, the others and the state stay; the etag is looked at.
    """
    made = await deploy(ready, "d", "m", endpoint="a", replicas=1, labels={"a": "b"})
    done = await change(ready, "d", endpoint="b", replicas=3, etag=made.etag)
    assert done == await get(ready, "d")
    assert (done.endpoint, done.replicas, done.labels["a"], done.environment) == ("b", 3, "b", "production")
    assert (done.state, done.version) == (made.state, made.version)
    assert done.revision > made.revision
    with Failing() as failed:
        await change(ready, "d", replicas=4, etag=made.etag)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    with Failing() as failed:
        await change(ready, "e", replicas=4)
    assert failed.reason == "DEPLOYMENT_NOT_FOUND"
    await change(ready, "d", "labels")
    assert not (await get(ready, "d")).labels


async def test_rollout_of_another_version(ready: Registry) -> None:
    """
    With another version a rollout begins, of another model, too; a PENDING deployment is still PENDING, and a RETIRED
    one keeps its version. A version that is not READY, or not there, is not rolled out.
    """
    await add_version(ready, "m")
    await add_version(ready, "m", ready=False)
    await create(ready, "n")
    await add_version(ready, "n")
    one, two, three, other = (
        f"{DEFAULT}/models/{v}" for v in ("m/versions/1", "m/versions/2", "m/versions/3", "n/versions/1")
    )
    await deploy(ready, "d", "m")
    assert (await change(ready, "d", version=two)).state == pb.Deployment.STATE_PENDING
    for state in ("ROLLING_OUT", "LIVE"):
        await status(ready, "d", state)
    assert (await change(ready, "d", version=two)).state == pb.Deployment.STATE_LIVE
    for version in (one, other, two):
        done = await change(ready, "d", version=version)
        assert (done.state, done.version) == (pb.Deployment.STATE_ROLLING_OUT, version)
    await status(ready, "d", "LIVE")
    await status(ready, "d", "DEGRADED")
    assert (await change(ready, "d", version=one)).state == pb.Deployment.STATE_ROLLING_OUT
    for version, reason in ((three, "VERSION_NOT_READY"), (f"{DEFAULT}/models/x/versions/1", "VERSION_NOT_FOUND")):
        with Failing() as failed:
            await change(ready, "d", version=version)
        assert failed.reason == reason
    await status(ready, "d", "RETIRED")
    with Failing() as failed:
        await change(ready, "d", version=two)
    assert failed.reason == "ILLEGAL_TRANSITION"
    assert (await get(ready, "d")).version == one


async def test_a_rollout_moves_the_hold(ready: Registry) -> None:
    """
    The model that a deployment runs now cannot be deleted; the one that it ran before can.
    """
    await create(ready, "n")
    await add_version(ready, "n")
    await deploy(ready, "d", "m")
    await change(ready, "d", version=f"{DEFAULT}/models/n/versions/1")
    with Failing() as failed:
        await ready.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/n"))
    assert failed.reason == "MODEL_DEPLOYED"
    await ready.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m"))
    await ready.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{DEFAULT}/models/m"))
    assert (await get(ready, "d")).version == f"{DEFAULT}/models/n/versions/1"


@pytest.mark.parametrize(
    ("field", "paths", "content"),
    [
        ("update_mask", [], pb.Deployment()),
        ("update_mask", ["state"], pb.Deployment()),
        ("deployment.version", ["version"], pb.Deployment(version="x")),
        ("deployment.version", ["version"], pb.Deployment(version="namespaces/x/models/m/versions/1")),
        ("deployment.environment", ["environment"], pb.Deployment(environment="P")),
        ("deployment.replicas", ["replicas"], pb.Deployment(replicas=-1)),
        ("deployment.endpoint", ["endpoint"], pb.Deployment(endpoint="a" * 2049)),
    ],
)
async def test_bad_updates(shared: Registry, field: str, paths: list[str], content: pb.Deployment) -> None:
    """
    A malformed update is rejected, and the field is named.
    """
    sent = pb.Deployment(name=f"{DEFAULT}/deployments/d")
    sent.MergeFrom(content)
    request = pb.UpdateDeploymentRequest(deployment=sent, update_mask=FieldMask(paths=paths))
    with Failing() as failed:
        await shared.deployments.UpdateDeployment(request)
    assert list(failed.fields) == [field]


async def test_delete(ready: Registry) -> None:
    """
    An ended deployment is deleted, streamed as a change and audited, and its id can be reused. One that may be running
    is deleted only by force.
    """
    await deploy(ready, "d", "m")
    with Failing() as failed:
        await remove(ready, "d")
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DEPLOYMENT_ACTIVE")
    assert failed.metadata["state"] == "PENDING"
    made = await status(ready, "d", "ROLLING_OUT")
    ended = await status(ready, "d", "RETIRED")
    with Failing() as failed:
        await remove(ready, "d", etag=made.etag)
    assert failed.reason == "ETAG_MISMATCH"
    await remove(ready, "d", etag=ended.etag)
    with Failing() as failed:
        await get(ready, "d")
    assert failed.reason == "DEPLOYMENT_NOT_FOUND"
    (told,) = await revisions(ready, ended.revision + 1, ended.revision + 1)
    assert [change.resource for change in told.changes] == [f"{DEFAULT}/deployments/d"]
    entries = await ready.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(action="DeleteDeployment"))
    assert [entry.before["state"] for entry in entries.entries] == ["RETIRED"]
    assert (await deploy(ready, "d", "m")).state == pb.Deployment.STATE_PENDING
    await remove(ready, "d", force=True)
    assert await listed(ready) == []


async def test_list_by_version_and_state(ready: Registry) -> None:
    """
    Deployments are found by version and by any of several states.
    """
    await add_version(ready, "m")
    for name in ("a", "b", "c", "d"):
        await deploy(ready, name, "m")
    for name in ("b", "c", "d"):
        await change(ready, name, version=f"{DEFAULT}/models/m/versions/2")
    await status(ready, "c", "FAILED")
    await status(ready, "d", "ROLLING_OUT")
    two = f"{DEFAULT}/models/m/versions/2"
    assert await listed(ready, version=two) == ["b", "c", "d"]
    assert await listed(ready, states=[pb.Deployment.STATE_PENDING]) == ["a", "b"]
    assert await listed(ready, states=[pb.Deployment.STATE_FAILED, pb.Deployment.STATE_ROLLING_OUT]) == ["c", "d"]
    assert await listed(ready, version=two, states=[pb.Deployment.STATE_PENDING], model=f"{DEFAULT}/models/m") == ["b"]
    for field, bad in (
        ("version", {"version": "x"}),
        ("version", {"version": two, "model": f"{DEFAULT}/models/n"}),
        ("states[0]", {"states": [99]}),
        ("states", {"states": [1] * 8}),
    ):
        with Failing() as failed:
            await listed(ready, **bad)
        assert list(failed.fields) == [field]


async def test_labels_one_at_a_time(ready: Registry) -> None:
    """
    A mask that names one label sets or removes that one; the others stay.
    """
    await deploy(ready, "d", "m", labels={"a": "1", "b": "2"})
    name = f"{DEFAULT}/deployments/d"
    for labels, expected in (({"c": "3"}, {"a": "1", "b": "2", "c": "3"}), ({}, {"a": "1", "b": "2"})):
        request = pb.UpdateDeploymentRequest(
            deployment=pb.Deployment(name=name, labels=labels), update_mask=FieldMask(paths=["labels.c"])
        )
        assert dict((await ready.deployments.UpdateDeployment(request)).labels) == expected
