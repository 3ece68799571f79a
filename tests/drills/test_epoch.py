"""
A database that goes back to an older state: caches that were there all the time serve nothing of what is lost.

A real PostgreSQL is copied with pg_basebackup, goes on, is stopped, and the copy takes its place: commits are lost, and
revisions repeat with another meaning. Nobody runs `--restored`.
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


@dataclass
class World:
    """
    A registry on a database of its own, and what a cache in front of it needs.
    """

    supervisor: Supervisor
    postgres: Postgres
    valkey: Valkey
    state: Path
    registry: Registry
    link: Link

    def copy(self) -> Path:
        """
        The data of the database as it is now.
        """
        copied = self.postgres.replicate(self.state / "copy").data
        (copied / "standby.signal").unlink()
        return copied

    def go_back(self, copied: Path) -> None:
        """
        Stop the database and start it again with what was copied.
        """
        self.supervisor.kill("postgresql")
        shutil.rmtree(self.postgres.data)
        copied.rename(self.postgres.data)
        self.supervisor.start([self.postgres.part()])

    @asynccontextmanager
    async def cache(self) -> AsyncIterator[Cache]:
        """
        A cache that reaches the registry over the link.
        """
        target = f"127.0.0.1:{self.link.port}"
        async with caches.running(target, Backend(self.valkey.url), MODELYARD_CACHE_STREAM_BOUND_SECONDS="2") as cache:
            yield cache


@pytest.fixture
def servers() -> Iterator[tuple[Supervisor, Postgres, Valkey, Path]]:
    """
    A PostgreSQL and a Valkey of our own.
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
async def world(servers: tuple[Supervisor, Postgres, Valkey, Path]) -> AsyncIterator[World]:
    """
    The registry with one model.
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
            yield World(supervisor, postgres, valkey, state, registry, link)
        finally:
            await link.down()


async def own(registry: Registry, name: str, owner: str) -> int:
    """
    Change a model, when the database is there, and return the revision.
    """
    model = models_pb2.Model(name=name, owner=owner)
    request = models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=["owner"]))
    async with asyncio.timeout(30):
        while True:
            try:
                return (await registry.models.UpdateModel(request)).revision
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


async def until(check: Callable[[], bool]) -> None:
    """
    Wait until something is so.
    """
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("passes", [False, True], ids=["head-below", "head-beyond"])
async def test_what_is_lost_is_not_served(world: World, *, passes: bool) -> None:
    """
    A cache that ran all the time, and one that is new and finds what the first one left in Valkey, serve what the
    database says after it went back: where its head is below what was told before, and where it has passed that.
    """
    name, other = NAME, f"{NAME.rpartition('/')[0]}/{OTHER}"
    registry = world.registry
    async with world.cache() as cache:
        copied = await asyncio.to_thread(world.copy)
        for _ in range(5):
            lost = await own(registry, name, "lost")
        await cache.warm(name)
        assert (await cache.read(name, x_min_revision=str(lost))).owner == "lost"
        await cache.warm(name)
        await world.link.down()
        await asyncio.to_thread(world.go_back, copied)
        made = 0
        while made < (lost + 3 if passes else lost - 2):
            made = await own(registry, other, "new")
        # While the link is down: after that the stream may be back before anybody looks.
        await until(lambda: cache.number("modelyard_cache_stream_age_seconds", service="registry") > 2)
        await world.link.up()
        await until(lambda: cache.number("modelyard_cache_stream_age_seconds", service="registry") < 1)
        assert {(await cache.read(name)).owner for _ in range(30)} == {"kept"}
        # It is kept again.
        await cache.warm(name)
        async with world.cache() as another:
            await until(lambda: another.number("modelyard_cache_stream_age_seconds", service="registry") < 1)
            assert {(await another.read(name)).owner for _ in range(30)} == {"kept"}


async def told(registry: Registry, start: int = 0) -> str:
    """
    The epoch that a stream begins with.
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
    All that a stream tells until it breaks.
    """
    async with asyncio.timeout(20):
        async for message in stream:
            found.append(message)  # noqa: PERF401 - it breaks, and what came before is kept


async def test_the_epoch_is_that_of_a_timeline(world: World) -> None:
    """
    Every stream of every process tells one epoch, however many writes there are, and `--restored` begins another one;
    a stream that began before ends instead of going on in the new one.
    """
    first = await told(world.registry)
    assert first
    await own(world.registry, NAME, "again")
    assert await told(world.registry, 2) == first
    url = world.postgres.url(user=SERVICE_ROLE)
    async with running(url) as second:
        assert await told(second) == first
        ended: list[changes_pb2.WatchChangesResponse] = []
        stream = watch(second, heartbeat_interval=Duration(nanos=200_000_000))
        ended.append(await anext(stream))
        connection = await asyncpg.connect(world.postgres.url())
        await go_on_after_restore(connection)
        await connection.close()
        with pytest.raises(grpc.aio.AioRpcError, match="start a new stream"):
            await collect(stream, ended)
        assert {each.heartbeat.epoch for each in ended if each.HasField("heartbeat")} == {first}
        again = await told(second)
        assert again not in {"", first}
        async with asyncio.timeout(20):
            while await told(world.registry) != again:
                await asyncio.sleep(0.05)
    # The stream goes on gaplessly from there.
    made = await own(world.registry, NAME, "later")
    assert [each.revision for each in await revisions(world.registry, made, made)] == [made]
