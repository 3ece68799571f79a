"""
Pins: a READY version has its artifacts pinned, a deleted one has none, whatever happens concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from modelyard.registry.v1 import models_pb2, namespaces_pb2
from modelyard.registry.v1 import versions_pb2 as pb
from services.chassis.access import ServiceToken
from services.chassis.clients.channels import Peer
from services.chassis.errors import Internal, ModelyardError, ResourceExhausted
from services.ledger.store.database import DatabaseSettings, open_database
from services.registry.model.names import VersionName
from services.registry.service.assets import Assets
from services.registry.service.pins import Pins
from services.registry.store.pin_releases import PinReleaseStore
from services.registry.store.versions import VersionStore
from services.registry.tests.calls import DEFAULT, add_version, create, sql, sweeper
from services.registry.tests.fake_assets import FakeAssets, new_fake_assets, serving
from services.registry.tests.server import Failing, Registry, running
from services.registry.tests.test_properties import real

_contents = itertools.count(1)


class PinSetup:
    """
    A registry, its asset service, and another process of the registry that only releases pins.
    """

    def __init__(self, registry: Registry, assets: FakeAssets, pins: Pins, versions: VersionStore) -> None:
        self.registry, self.assets, self.pins, self.versions = registry, assets, pins, versions

    async def add(self, model: str = "m", files: int = 1) -> pb.Version:
        """
        Add a PENDING version with files that are stored.
        """
        digests = [hashlib.sha256(str(next(_contents)).encode()).hexdigest() for _ in range(files)]
        self.assets.sizes.update(dict.fromkeys(digests, 5))
        artifacts = [pb.Artifact(path=f"f/{each}", sha256=each, size_bytes=5) for each in digests]
        return await add_version(self.registry, model, artifacts=artifacts)

    async def finalize(self, name: str) -> pb.Version:
        """
        Finalize a version.
        """
        return await self.registry.versions.FinalizeVersion(pb.FinalizeVersionRequest(name=name))

    async def fail(self, name: str) -> pb.Version:
        """
        Fail a version.
        """
        return await self.registry.versions.FailVersion(pb.FailVersionRequest(name=name, failure="given up"))

    async def purge(self, model: str = "m") -> None:
        """
        Delete and purge a model.
        """
        name = f"{DEFAULT}/models/{model}"
        await self.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
        await self.registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name))

    async def get(self, name: str) -> pb.Version:
        """
        Get a version.
        """
        return await self.registry.versions.GetVersion(pb.GetVersionRequest(name=name))

    async def owed(self) -> int:
        """
        The number of claims and releases.
        """
        return int(await sql(self.registry, "SELECT count(*) FROM unpins"))

    async def pass_time(self) -> None:
        """
        Make every claim and release due.
        """
        await sql(self.registry, "UPDATE unpins SET due = now()")

    async def settle(self) -> None:
        """
        Release all pins that are due.
        """
        await self.assets.idle()
        async with asyncio.timeout(30):
            while await self.owed():
                await self.pass_time()
                await self.pins.release_due()


@asynccontextmanager
async def on(database: str) -> AsyncIterator[PinSetup]:
    """
    A registry with its asset service, while the block runs.
    """
    assets = new_fake_assets()
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(assets))
        registry = await stack.enter_async_context(running(database, address))
        other = await stack.enter_async_context(open_database(DatabaseSettings(url=database)))
        peer = Peer(address)
        stack.push_async_callback(peer.close)
        pins = Pins(Assets([peer], ServiceToken()), PinReleaseStore(other))
        yield PinSetup(registry, assets, pins, VersionStore(other))


@pytest.fixture
async def yard(database: str) -> AsyncIterator[PinSetup]:
    """
    A registry with a model.
    """
    async with on(database) as found:
        await create(found.registry, "m")
        yield found


@pytest.fixture(scope="module")
async def busy(new_database: Callable[[], str]) -> AsyncIterator[PinSetup]:
    """
    A registry that the examples of a property test share.
    """
    async with on(new_database()) as found:
        yield found


def names(version: pb.Version) -> set[str]:
    """
    The names of a version's artifacts.
    """
    return {f"assets/{each.sha256}" for each in version.artifacts}


async def test_finalize_pins_the_artifacts(yard: PinSetup) -> None:
    """
    A READY version pins its artifacts under its full name, each once, and nothing else; nothing of it is owed.
    """
    version, other = await yard.add(files=3), await yard.add()
    ready = await yard.finalize(version.name)
    assert ready.state == pb.Version.STATE_READY
    assert yard.assets.pins == {version.name: names(version)}
    await yard.finalize(other.name)
    assert yard.assets.pins == {version.name: names(version), other.name: names(other)}
    assert await yard.owed() == 0


async def test_finalize_a_ready_version(yard: PinSetup) -> None:
    """
    Finalizing a READY version again asks the asset service for nothing.
    """
    version = await yard.add()
    ready = await yard.finalize(version.name)
    assert await yard.finalize(version.name) == ready
    assert yard.assets.calls == ["Pin"]
    assert await yard.owed() == 0


async def test_nothing_to_pin(yard: PinSetup) -> None:
    """
    A version without artifacts becomes READY without the asset service.
    """
    yard.assets.down = True
    version = await add_version(yard.registry, "m")
    assert version.state == pb.Version.STATE_READY
    assert (yard.assets.calls, await yard.owed()) == ([], 0)


async def test_an_artifact_goes_before_it_is_pinned(yard: PinSetup) -> None:
    """
    An artifact that is collected between the check and the pin is missing, and the version does not become READY.
    """
    version = await yard.add(files=2)
    gone = version.artifacts[1]
    yard.assets.collected = {gone.sha256}
    with Failing() as failed:
        await yard.finalize(version.name)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ASSET_MISSING")
    assert failed.metadata == {"path": gone.path, "sha256": gone.sha256}
    assert (await yard.get(version.name)).state == pb.Version.STATE_PENDING
    yard.assets.collected = set()
    assert (await yard.finalize(version.name)).state == pb.Version.STATE_READY


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            ResourceExhausted("ASSET_QUOTA", "too much", metadata={"limit": "1"}),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "ASSET_QUOTA",
        ),
        (ResourceExhausted("DATABASE_BUSY", "busy"), grpc.StatusCode.UNAVAILABLE, "ASSET_SERVICE_UNAVAILABLE"),
        (Internal("INTERNAL", "a mistake"), grpc.StatusCode.UNAVAILABLE, "ASSET_SERVICE_UNAVAILABLE"),
    ],
    ids=["quota", "busy", "broken"],
)
async def test_a_refused_pin(yard: PinSetup, error: ModelyardError, code: grpc.StatusCode, reason: str) -> None:
    """
    An exhausted quota is reported; other errors of the asset service are UNAVAILABLE. The version stays PENDING, and
    becomes READY once the error is gone.
    """
    version = await yard.add()
    yard.assets.refuse["Pin"] = error
    with Failing() as failed:
        await yard.finalize(version.name)
    assert (failed.code, failed.reason) == (code, reason)
    assert (await yard.get(version.name)).state == pb.Version.STATE_PENDING
    yard.assets.refuse.clear()
    assert (await yard.finalize(version.name)).state == pb.Version.STATE_READY
    assert yard.assets.pins == {version.name: names(version)}
    assert await yard.owed() == 0


async def test_fail_unpins(yard: PinSetup) -> None:
    """
    A version that was pinned and then fails releases all its pins.
    """
    version = await yard.add()
    yard.assets.lose_answers = True
    with Failing() as failed:
        await yard.finalize(version.name)
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert yard.assets.pins == {version.name: names(version)}
    await yard.fail(version.name)
    yard.assets.lose_answers = False
    await yard.settle()
    assert yard.assets.pins == {}


async def test_what_is_never_finalized_is_unpinned(yard: PinSetup) -> None:
    """
    A registry that dies between the pin and the transaction leaves a PENDING version and pins; they are taken back.
    """
    version = await yard.add()
    claim = await yard.pins.pin((await yard.versions.get(VersionName.parse(version.name))).value)
    assert claim is not None
    assert yard.assets.pins == {version.name: names(version)}
    await yard.settle()
    assert yard.assets.pins == {}
    assert (await yard.finalize(version.name)).state == pb.Version.STATE_READY


@pytest.mark.parametrize("by", ["call", "sweeper"])
async def test_purge_unpins(yard: PinSetup, by: str) -> None:
    """
    A purge releases the pins of all versions of the model, whichever process purges, and of no other model.
    """
    await create(yard.registry, "other")
    for _ in range(3):
        await yard.finalize((await yard.add()).name)
    kept = await yard.finalize((await yard.add("other")).name)
    if by == "call":
        await yard.purge()
    else:
        name = f"{DEFAULT}/models/m"
        await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
        await sql(yard.registry, "UPDATE models SET purge_time = now() WHERE model_id = 'm'")
        async with open_database(DatabaseSettings(url=yard.registry.database)) as database:
            await sweeper(database).purge_due()
    assert await yard.owed() == 3
    await yard.settle()
    assert yard.assets.pins == {kept.name: names(kept)}


async def test_deletion_keeps_the_pins(yard: PinSetup) -> None:
    """
    A model that can still be undeleted keeps the bytes of its versions.
    """
    version = await yard.finalize((await yard.add()).name)
    await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m"))
    assert await yard.owed() == 0
    assert yard.assets.pins == {version.name: names(version)}


async def test_asset_service_away(yard: PinSetup) -> None:
    """
    While the asset service is unavailable versions fail and models are purged; the pins are released later.
    """
    failing, ready = await yard.add(), await yard.add()
    await yard.finalize(ready.name)
    yard.assets.down = True
    await yard.fail(failing.name)
    await yard.purge()
    for _ in range(2):
        await yard.pass_time()
        assert await yard.pins.release_due() == 0
    assert await yard.owed() == 3
    assert yard.assets.pins == {ready.name: names(ready)}
    assert await sql(yard.registry, "SELECT bool_and(due > now()) FROM unpins")
    yard.assets.down = False
    await yard.settle()
    assert yard.assets.pins == {}


async def test_killed_while_paying(yard: PinSetup) -> None:
    """
    What was paid when the process died, or when the answer was lost, is paid again and then forgotten.
    """
    await yard.finalize((await yard.add()).name)
    await yard.purge()
    yard.assets.lose_answers = True
    await yard.pass_time()
    assert await yard.pins.release_due() == 0
    assert (yard.assets.pins, await yard.owed()) == ({}, 1)
    yard.assets.lose_answers = False
    await yard.settle()
    assert await yard.owed() == 0


async def test_the_background_pays(yard: PinSetup) -> None:
    """
    The registry's background job releases pins that are due.
    """
    await yard.finalize((await yard.add()).name)
    await yard.purge()
    await yard.pass_time()
    async with asyncio.timeout(60):
        while await yard.owed():
            await asyncio.sleep(0.1)
    assert yard.assets.pins == {}


async def test_a_name_that_is_made_again(yard: PinSetup) -> None:
    """
    A version with the name of a purged one is READY only after the old one's pins were taken back, and keeps its own.
    """
    old = await yard.add()
    await yard.finalize(old.name)
    await yard.purge()
    await create(yard.registry, "m")
    new = await yard.add()
    assert new.name == old.name
    yard.assets.refuse["Unpin"] = Internal("INTERNAL", "a mistake")
    with Failing() as failed:
        await yard.finalize(new.name)
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert (await yard.get(new.name)).state == pb.Version.STATE_PENDING
    yard.assets.refuse.clear()
    await yard.finalize(new.name)
    assert await yard.owed() == 0
    assert yard.assets.pins == {new.name: names(new)}


async def test_a_namespace_that_is_made_again(yard: PinSetup) -> None:
    """
    A namespace is made again only after the pins of the one before were taken back: who may see assets follows from the
    names of namespaces. Others are made meanwhile.
    """

    async def make(namespace: str) -> None:
        request = namespaces_pb2.CreateNamespaceRequest(namespace_id=namespace)
        await yard.registry.namespaces.CreateNamespace(request)

    await make("again")
    model = models_pb2.CreateModelRequest(parent="namespaces/again", model_id="m")
    name = (await yard.registry.models.CreateModel(model)).name
    artifact = (await yard.add()).artifacts[0]
    request = pb.CreateVersionRequest(parent=name, version=pb.Version(artifacts=[artifact]))
    version = await yard.registry.versions.CreateVersion(request)
    await yard.finalize(version.name)
    await yard.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
    await yard.registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name))
    await yard.registry.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name="namespaces/again"))
    assert yard.assets.pins.keys() == {version.name}
    with Failing() as failed:
        await make("again")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAMESPACE_EXISTS")
    refused = failed.message
    for other in ("agai", "again-", "again0"):
        await make(other)
    # What is owed for neighbors.
    for owner in ("x-/models/m/versions/1", "x0/models/m/versions/1", "x-a/models/m/versions/1"):
        await sql(
            yard.registry, "INSERT INTO unpins (owner, due) VALUES ($1, now() + interval '1h')", f"namespaces/{owner}"
        )
    await make("x")
    await yard.settle()
    assert yard.assets.pins == {}
    await make("again")
    # Nobody is told whether a namespace exists that they may not see.
    with Failing() as failed:
        await make("again")
    assert failed.message == refused


async def test_an_old_debt_arrives_late(yard: PinSetup) -> None:
    """
    A release that is sent so late that the name is READY again does not unpin the new version.
    """
    await yard.finalize((await yard.add()).name)
    await yard.purge()
    held = yard.assets.hold("Unpin")
    await yard.pass_time()
    paying = asyncio.create_task(yard.pins.release_due())
    await held.reached.wait()
    await create(yard.registry, "m")
    new = await yard.add()
    await yard.finalize(new.name)
    held.over.set()
    await paying
    await yard.settle()
    assert yard.assets.pins == {new.name: names(new)}


async def test_a_claim_is_taken_back_meanwhile(yard: PinSetup) -> None:
    """
    A call that takes so long that the pins are released does not make the version READY, and may be retried.
    """
    version = await yard.add()
    held = yard.assets.hold("Pin")
    finalizing = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    await yard.pass_time()
    while await yard.owed():
        await yard.pins.release_due()
    held.over.set()
    with Failing() as failed:
        await finalizing
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "PINS_TAKEN_BACK")
    assert (await yard.finalize(version.name)).state == pb.Version.STATE_READY
    assert yard.assets.pins == {version.name: names(version)}


async def test_a_debt_in_other_hands(yard: PinSetup) -> None:
    """
    While another process is releasing the pins and has no response yet, a version does not become READY.
    """
    version = await yard.add()
    held, unheard = yard.assets.hold("Pin"), yard.assets.hold("Unpin")
    finalizing = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    await yard.pass_time()
    paying = asyncio.create_task(yard.pins.release_due())
    await unheard.reached.wait()
    held.over.set()
    with Failing() as failed:
        await finalizing
    assert failed.reason == "PINS_TAKEN_BACK"
    unheard.over.set()
    await paying
    await yard.settle()
    assert yard.assets.pins == {}


async def test_fail_while_pinning(yard: PinSetup) -> None:
    """
    A version that fails while its artifacts are being pinned keeps no pins, though they are made after it failed.
    """
    version = await yard.add()
    held = yard.assets.hold("Pin")
    finalizing = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    await yard.fail(version.name)
    # Too early: pins that are released now would be set again afterwards.
    assert await yard.pins.release_due() == 0
    held.over.set()
    with Failing() as failed:
        await finalizing
    assert failed.reason == "VERSION_FAILED"
    assert yard.assets.pins == {version.name: names(version)}
    await yard.settle()
    assert yard.assets.pins == {}


async def test_purge_while_pinning(yard: PinSetup) -> None:
    """
    A model that is purged while artifacts of a version are being pinned leaves no pins.
    """
    version = await yard.add()
    held = yard.assets.hold("Pin")
    finalizing = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    await yard.purge()
    assert await yard.pins.release_due() == 0
    held.over.set()
    with Failing() as failed:
        await finalizing
    assert failed.code is grpc.StatusCode.NOT_FOUND
    await yard.settle()
    assert yard.assets.pins == {}


async def test_finalized_twice_at_once(yard: PinSetup) -> None:
    """
    Of two calls that finalize the same version the later one makes it READY, and the earlier one, which completes last,
    sees that.
    """
    version = await yard.add()
    held = yard.assets.hold("Pin")
    first = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    ready = await yard.finalize(version.name)
    held.over.set()
    assert await first == ready
    await yard.settle()
    assert yard.assets.pins == {version.name: names(version)}


async def test_other_artifacts_meanwhile(yard: PinSetup) -> None:
    """
    A version whose artifacts change while they are being pinned does not become READY, and then pins only the new ones.
    """
    version, other = await yard.add(), await yard.add()
    held = yard.assets.hold("Pin")
    finalizing = asyncio.create_task(yard.finalize(version.name))
    await held.reached.wait()
    changed = pb.Version(name=version.name, artifacts=other.artifacts)
    mask = FieldMask(paths=["artifacts"])
    await yard.registry.versions.UpdateVersion(pb.UpdateVersionRequest(version=changed, update_mask=mask))
    held.over.set()
    with Failing() as failed:
        await finalizing
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "VERSION_CHANGED")
    await yard.finalize(version.name)
    assert yard.assets.pins == {version.name: names(other)}


STEPS = st.sampled_from(["finalize", "finalize", "fail", "purge", "add", "pay", "pay"])
EXPECTED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
}


@real(40)
@given(
    people=st.lists(st.lists(STEPS, min_size=1, max_size=6), min_size=2, max_size=4),
    early=st.booleans(),
    seed=st.integers(0, 2**32),
)
async def test_whatever_comes_in_between(busy: PinSetup, people: list[list[str]], early: bool, seed: int) -> None:
    """
    Concurrent finalization, failure, purge, re-creation and release of pins, with an asset service that is slow and
    loses calls and responses: a READY version has its artifacts pinned, and finally nothing else is pinned.

    When pins are released early (*early*), before pins in progress can have arrived, some may be left.
    """
    model = f"m{next(_contents)}"
    await create(busy.registry, model)
    name = (await busy.add(model)).name
    busy.assets.chaos = random.Random(seed)  # noqa: S311 - a test's dice

    async def again() -> None:
        await busy.purge(model)
        await create(busy.registry, model)
        await busy.add(model)

    async def pay() -> None:
        if early:
            await busy.pass_time()
        await busy.pins.release_due()

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "finalize": lambda: busy.finalize(name),
        "fail": lambda: busy.fail(name),
        "purge": again,
        "add": lambda: busy.add(model),
        "pay": pay,
    }

    async def act(person: list[str]) -> None:
        for step in person:
            try:
                await calls[step]()
            except grpc.aio.AioRpcError as error:
                assert error.code() in EXPECTED, error  # noqa: PT017 - most calls end well

    await asyncio.gather(*map(act, people))
    busy.assets.chaos = None
    await _check(busy, model)
    await busy.settle()
    left = await _check(busy, model)
    if not early:
        assert left == set()
    busy.assets.pins.clear()


async def _check(yard: PinSetup, model: str) -> set[str]:
    """
    Whether every READY version of a model has its artifacts pinned.

    Returns:
        The owners of pins that are no READY version.
    """
    ready: dict[str, pb.Version] = {}
    # Purged, and not made again: there is none.
    with contextlib.suppress(grpc.aio.AioRpcError):
        found = await yard.registry.versions.ListVersions(pb.ListVersionsRequest(parent=f"{DEFAULT}/models/{model}"))
        ready = {each.name: each for each in found.versions if each.state == pb.Version.STATE_READY}
    for owner, version in ready.items():
        assert names(version) <= yard.assets.pins.get(owner, set())
    return set(yard.assets.pins) - set(ready)
