"""
A database that is restored to an older state: caches that kept running serve nothing that was lost.

A real PostgreSQL is copied with pg_basebackup, gets further commits, is stopped, and is replaced by the copy: commits
are lost, and their revisions are used again for other changes. `--restored` is not run.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from embedded.link import Link
from embedded.parts import free_port
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import models_pb2
from services.cache.tests import harness as caches
from services.cache.tests.harness import NAME, Backend, Cache
from services.ledger.migrate import go_on_after_restore, grant, migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.calls import create, revisions, watch
from services.registry.tests.server import Registry, running

OTHER = "other"
pytestmark = pytest.mark.timeout(300)


@dataclass
class Suite:
    """
    A registry on its own database, and what a cache in front of it needs.
    """

    supervisor: Supervisor
    postgres: Postgres
    valkey: Valkey
    state: Path
    registry: Registry
    link: Link

    def copy(self) -> Path:
        """
        Copy the database's data.
        """
        copied = self.postgres.replicate(self.state / "copy").data
        (copied / "standby.signal").unlink()
        return copied

    def restore(self, copied: Path) -> None:
        """
        Stop the database, and start it again with copied data.
        """
        self.supervisor.kill("postgresql")
        shutil.rmtree(self.postgres.data)
        copied.rename(self.postgres.data)
        self.supervisor.start([self.postgres.part()])

    @asynccontextmanager
    async def cache(self) -> AsyncIterator[Cache]:
        """
        A cache that reaches the registry through the link.
        """
        target = f"127.0.0.1:{self.link.port}"
        async with caches.running(target, Backend(self.valkey.url), MODELYARD_CACHE_STREAM_BOUND_SECONDS="2") as cache:
            yield cache


@pytest.fixture
def servers() -> Iterator[tuple[Supervisor, Postgres, Valkey, Path]]:
    """
    A PostgreSQL and a Valkey server.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        postgres, valkey = Postgres.inside(state), Valkey(free_port())
        try:
            supervisor.start([postgres.part(), valkey.part()])
            yield supervisor, postgres, valkey, state
        finally:
            supervisor.stop()


@pytest.fixture
async def suite(servers: tuple[Supervisor, Postgres, Valkey, Path]) -> AsyncIterator[Suite]:
    """
    The registry with two models.
    """
    supervisor, postgres, valkey, state = servers
    connection = await asyncpg.connect(postgres.url())
    await migrate(connection, migrations(FOLDER))
    await grant(connection, FOLDER, SERVICE_ROLE)
    await connection.close()
    async with running(postgres.url(user=SERVICE_ROLE)) as registry:
        await create(registry, "m", models_pb2.Model(owner="kept"))
        await create(registry, OTHER)
        link = Link(registry.port)
        await link.up()
        try:
            yield Suite(supervisor, postgres, valkey, state, registry, link)
        finally:
            await link.down()


async def set_owner(registry: Registry, name: str, owner: str) -> int:
    """
    Change a model, as soon as the database is available, and return the revision.
    """
    model = models_pb2.Model(name=name, owner=owner)
    request = models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=["owner"]))
    async with asyncio.timeout(90):
        while True:
            try:
                return (await registry.models.UpdateModel(request)).revision
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


async def until(check: Callable[[], bool]) -> None:
    """
    Wait until a condition is true.
    """
    async with asyncio.timeout(90):
        while not check():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("beyond", [False, True], ids=["head-below", "head-beyond"])
async def test_lost_commits_are_not_served(suite: Suite, *, beyond: bool) -> None:
    """
    A cache that kept running, and a new one that finds the entries of the first one in Valkey, serve the restored
    state: both when the newest revision is lower than the last known one, and when it is already higher.
    """
    name, other = NAME, f"{NAME.rpartition('/')[0]}/{OTHER}"
    registry = suite.registry
    async with suite.cache() as cache:
        copied = await asyncio.to_thread(suite.copy)
        for _ in range(5):
            lost = await set_owner(registry, name, "lost")
        await cache.warm(name)
        assert (await cache.read(name, x_min_revision=str(lost))).owner == "lost"
        await cache.warm(name)
        await suite.link.down()
        await asyncio.to_thread(suite.restore, copied)
        made = 0
        while made < (lost + 3 if beyond else lost - 2):
            made = await set_owner(registry, other, "new")
        # While the link is down: once it is up, the stream may be re-established before the metric is read.
        await until(lambda: cache.number("modelyard_cache_stream_age_seconds", service="registry") > 2)
        await suite.link.up()
        await until(lambda: cache.number("modelyard_cache_stream_age_seconds", service="registry") < 1)
        assert {(await cache.read(name)).owner for _ in range(30)} == {"kept"}
        # It is cached again.
        await cache.warm(name)
        async with suite.cache() as another:
            await until(lambda: another.number("modelyard_cache_stream_age_seconds", service="registry") < 1)
            assert {(await another.read(name)).owner for _ in range(30)} == {"kept"}


async def epoch_of_stream(registry: Registry, start: int = 0) -> str:
    """
    The epoch that a new stream states.
    """
    stream = watch(registry, start_revision=start, heartbeat_interval=Duration(nanos=200_000_000))
    async for message in stream:
        event = message.WhichOneof("event")
        assert event in {"heartbeat", "discontinuity"}
        epoch: str = getattr(message, event).epoch
        await stream.aclose()
        return epoch
    raise AssertionError("the stream ended")


async def collect(
    stream: AsyncGenerator[changes_pb2.WatchChangesResponse, None], found: list[changes_pb2.WatchChangesResponse]
) -> None:
    """
    Collect the messages of a stream until it fails.
    """
    async with asyncio.timeout(90):
        async for message in stream:
            found.append(message)  # noqa: PERF401 - the stream fails, and the messages before are kept


async def test_an_epoch_identifies_a_timeline(suite: Suite) -> None:
    """
    Every stream of every process states the same epoch, regardless of writes, until `--restored` begins a new one; a
    stream that began before then ends with an error.
    """
    first = await epoch_of_stream(suite.registry)
    assert first
    await set_owner(suite.registry, NAME, "again")
    assert await epoch_of_stream(suite.registry, 2) == first
    url = suite.postgres.url(user=SERVICE_ROLE)
    async with running(url) as second:
        assert await epoch_of_stream(second) == first
        ended: list[changes_pb2.WatchChangesResponse] = []
        stream = watch(second, heartbeat_interval=Duration(nanos=200_000_000))
        ended.append(await anext(stream))
        connection = await asyncpg.connect(suite.postgres.url())
        await go_on_after_restore(connection)
        await connection.close()
        with pytest.raises(grpc.aio.AioRpcError, match="start a new stream"):
            await collect(stream, ended)
        assert {each.heartbeat.epoch for each in ended if each.HasField("heartbeat")} == {first}
        again = await epoch_of_stream(second)
        assert again not in {"", first}
        async with asyncio.timeout(90):
            while await epoch_of_stream(suite.registry) != again:
                await asyncio.sleep(0.05)
    # The stream continues without a gap from there.
    made = await set_owner(suite.registry, NAME, "later")
    assert [each.revision for each in await revisions(suite.registry, made, made)] == [made]
