"""
No interleaving of uploads, pins and collections in two processes loses bytes that are referenced (docs/adr/0015).

Everything between two requests, to PostgreSQL or to the object store, is one step, and the order of the steps is
random. PostgreSQL is real. The bucket is in memory, so that every step can be checked, and a real one in a few runs.
MODELYARD_TEST_INTERLEAVINGS is the number of runs, 12 by default (`make check-properties`: 80); ten take about a
second, so more than a thousand need `--timeout 0`.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedded.postgres import Postgres
from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.model import all_keys, asset_name
from services.cdn.store.retention.garbage_collection import GracePeriods
from services.cdn.tests.calls import digest
from services.cdn.tests.conftest import World
from services.cdn.tests.machines import Machine, Shop, call, open_shop, upload_at_once, upload_resumably
from services.cdn.tests.memory_bucket import CopyingBucket, MemoryBucket
from services.cdn.tests.stepping import Steps, acting
from services.chassis.errors import ModelyardError

RUNS = int(os.environ.get("MODELYARD_TEST_INTERLEAVINGS", "12"))
CONTENTS = (b"a", b"bb")
DIGESTS = tuple(map(digest, CONTENTS))
OWNERS = ("namespaces/default/models/m/versions/1", "namespaces/default/models/m/versions/2")
_HOUR = timedelta(hours=1)
_MOST_STEPS = 5000

processes = st.integers(0, 1)
contents = st.integers(0, 1)


@dataclass(frozen=True)
class Upload:
    """
    An actor that uploads a number of times.
    """

    process: int
    content: int
    private: bool
    resumable: bool
    times: int


@dataclass(frozen=True)
class Keep:
    """
    Adds or removes pins.
    """

    process: int
    pins: bool
    contents: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """
    The actors of a run, and the parameters of their order.

    Args:
        hasty: nothing is left alone for any time, not even what is being uploaded.
        uploads: each by somebody else.
        keeps: of each owner, one after the other.
        collectors: in which process each is.
        removers: who deletes which content.
        crashes: in which step which actor is cancelled.
        crashes_slow: whoever sent the slow request is cancelled then.
        seed, sticky, slow: see `Steps`.
    """

    hasty: bool
    uploads: list[Upload]
    keeps: list[list[Keep]]
    collectors: list[int]
    removers: list[tuple[int, int]]
    crashes: dict[int, int]
    crashes_slow: bool
    seed: int
    sticky: float
    slow: str


keeps = st.builds(Keep, processes, st.sampled_from([True, True, False]), st.frozensets(contents, min_size=1))
plans = st.builds(
    Plan,
    hasty=st.booleans(),
    uploads=st.lists(
        st.builds(Upload, processes, contents, st.booleans(), st.booleans(), st.integers(1, 3)), min_size=1, max_size=4
    ),
    keeps=st.lists(st.lists(keeps, max_size=4), min_size=2, max_size=2),
    collectors=st.lists(processes, min_size=1, max_size=3),
    removers=st.lists(st.tuples(processes, contents), max_size=2),
    crashes=st.dictionaries(st.integers(0, 150), st.integers(0, 9), max_size=2),
    crashes_slow=st.booleans(),
    seed=st.integers(0, 2**32),
    sticky=st.sampled_from([0.0, 0.5, 0.8, 0.95]),
    slow=st.sampled_from(
        ["", "put", "complete", "copy", "delete assets", "delete private", "collection.", "connection"]
    ),
)


@dataclass
class Run:
    """
    A plan in progress.
    """

    shop: Shop
    plan: Plan
    steps: Steps
    machines: list[Machine] = field(default_factory=list)
    actors: list[asyncio.Task[None]] = field(default_factory=list)
    named: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    crashed_slow: bool = False
    promised: set[tuple[str, str]] = field(default_factory=set)
    began: dict[asyncio.Task[None], float] = field(default_factory=dict)

    async def play(self) -> None:
        """
        Run the plan, and check after every step.
        """
        grace = (
            GracePeriods(timedelta(0), timedelta(0), timedelta(0))
            if self.plan.hasty
            else GracePeriods(_HOUR, _HOUR, _HOUR)
        )
        self.machines = await self.shop.begin(self.steps, grace)
        self._start()
        try:
            for step in range(_MOST_STEPS):
                await self.steps.settle(self.shop.waiting, self._ended)
                await self._look()
                if not self.plan.hasty:
                    await self.shop.age(self._oldest())
                if step in self.plan.crashes:
                    await self._crash(self.actors[self.plan.crashes[step] % len(self.actors)])
                if self.plan.crashes_slow and self.steps.slowed and not self.crashed_slow:
                    self.crashed_slow = True
                    await self._crash(self.named[self.steps.slowed])
                if not self.steps.next() and self._ended():
                    break
        finally:
            self.steps.release()
            await asyncio.gather(*self.actors, return_exceptions=True)
            await asyncio.gather(*self.steps.sent, return_exceptions=True)
            await self.shop.end(self.machines)
        for actor in self.actors:
            if not actor.cancelled():
                actor.result()
        await self._look()
        await self._tidy()

    def _start(self) -> None:
        for number, upload in enumerate(self.plan.uploads):
            self._act(f"upload {number}", self._upload(upload))
            self.began[self.actors[-1]] = time.time()
        for owner, kept in zip(OWNERS, self.plan.keeps, strict=True):
            self._act(f"owner {owner[-1]}", self._keep(owner, kept))
        for number, process in enumerate(self.plan.collectors):
            self._act(f"collector {number}", self._collect(process))
        for number, (process, content) in enumerate(self.plan.removers):
            self._act(f"remover {number}", self._remove(process, content))

    def _act(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self.named[name] = acting(name, work)
        self.actors.append(self.named[name])

    def _ended(self) -> bool:
        return all(actor.done() for actor in self.actors) and not self.steps.sent

    def _oldest(self) -> float:
        """
        The time since when something is being uploaded.
        """
        if self.steps.sent:
            return min(self.began.values())
        return min([began for actor, began in self.began.items() if not actor.done()], default=time.time())

    async def _crash(self, actor: asyncio.Task[None]) -> None:
        self.steps.trace.append(f"crash of {actor.get_name()}")
        actor.cancel()
        await asyncio.sleep(0)
        self._act(f"collector {len(self.actors)}", self._collect(len(self.actors) % 2))

    async def _upload(self, upload: Upload) -> None:
        machine, data = self.machines[upload.process], CONTENTS[upload.content]
        for _ in range(upload.times):
            try:
                await (upload_resumably if upload.resumable else upload_at_once)(machine, data, private=upload.private)
            except ModelyardError as error:
                self.steps.trace.append(f"upload failed: {error}")

    async def _keep(self, owner: str, kept: list[Keep]) -> None:
        for keep in kept:
            service = self.machines[keep.process].assets
            pairs = {(owner, DIGESTS[content]) for content in keep.contents}
            names = [asset_name(sha256) for _, sha256 in sorted(pairs)]
            try:
                if keep.pins:
                    await service.Pin(pb.PinRequest(owner=owner, names=names), call())
                    self.promised |= pairs
                else:
                    self.promised -= pairs
                    await service.Unpin(pb.UnpinRequest(owner=owner, names=names), call())
            except ModelyardError as error:
                self.steps.trace.append(f"pin or unpin failed: {error}")

    async def _collect(self, process: int) -> None:
        for _ in range(2):
            try:
                await self.machines[process].assets.CollectGarbage(pb.CollectGarbageRequest(), call())
            except ModelyardError as error:
                self.steps.trace.append(f"collection failed: {error}")

    async def _remove(self, process: int, content: int) -> None:
        request = pb.DeleteAssetRequest(name=asset_name(DIGESTS[content]))
        try:
            await self.machines[process].assets.DeleteAsset(request, call())
        except ModelyardError as error:
            self.steps.trace.append(f"deletion failed: {error}")

    async def _look(self) -> None:
        seen = await self.shop.look()
        for state, key in seen.assets.values():
            assert state != "LIVE" or await self.shop.has(key), f"{key} is lost"
        for _, sha256 in seen.pins:
            assert seen.assets[sha256][0] == "LIVE", f"{sha256} is pinned and not there"
        assert self.promised <= seen.pins, "a pin is lost"

    async def _tidy(self) -> None:
        """
        Two collections delete everything that is not pinned.
        """
        for _ in range(2):
            await self.shop.age(time.time() + 1)
            await self.machines[0].assets.CollectGarbage(pb.CollectGarbageRequest(), call())
        await self._look()
        seen = await self.shop.look()
        assert set(seen.assets) == {sha256 for _, sha256 in seen.pins}
        if not self.plan.hasty:
            # Without grace periods, a row may be deleted while its bytes are being uploaded, and these are left.
            known = {key for sha256 in seen.assets for key in all_keys(sha256)}
            assert self.shop.keys() <= known, "unreferenced objects are left"


@pytest.fixture(scope="module")
async def shop(postgres: Postgres, new_assets_database: Callable[[], str]) -> AsyncIterator[Shop]:
    """
    Two services with a bucket in memory.
    """
    bucket = MemoryBucket()
    async with open_shop(_hasty_deadlocks(postgres, new_assets_database()), bucket, lambda: set(bucket.objects)) as it:
        yield it


@pytest.fixture(scope="module")
async def real_shop(postgres: Postgres, world: World) -> AsyncIterator[Shop]:
    """
    Two services with a real bucket.
    """
    name = f"test-{uuid.uuid4().hex[:12]}"
    world.client.create_bucket(Bucket=name)
    bucket = CopyingBucket(world.straight(name))
    async with open_shop(_hasty_deadlocks(postgres, world.new_database()), bucket, partial(_keys, world, name)) as it:
        yield it
    await bucket.close()


def _keys(world: World, bucket: str) -> set[str]:
    found = world.client.list_objects_v2(Bucket=bucket)
    return {entry["Key"] for entry in found.get("Contents", [])}


def _hasty_deadlocks(postgres: Postgres, url: str) -> str:
    # At the default of a second, deadlocks would take most of the time.
    postgres.sql(f"ALTER DATABASE {urlsplit(url).path[1:]} SET deadlock_timeout = '20ms'")
    return url


async def _play(shop: Shop, plan: Plan) -> None:
    run = Run(shop, plan, Steps(plan.seed, plan.sticky, plan.slow))
    try:
        await run.play()
    except BaseException as error:
        # Of this run: the database's timing may make another run differ.
        error.add_note("\n".join([repr(plan), *run.steps.trace]))
        raise


_like = partial(
    settings,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(plan=plans)
@_like(max_examples=RUNS)
async def test_nothing_is_lost(shop: Shop, plan: Plan) -> None:
    """
    At every step, LIVE assets have their bytes under their key, pinned assets are LIVE, acknowledged pins exist, and
    the totals are right. At the end, two collections leave only what is pinned.
    """
    await _play(shop, plan)


@given(plan=plans)
@_like(max_examples=max(3, RUNS // 10))
async def test_nothing_is_lost_in_a_real_bucket(real_shop: Shop, plan: Plan) -> None:
    """
    The same with a real bucket.
    """
    await _play(real_shop, plan)
