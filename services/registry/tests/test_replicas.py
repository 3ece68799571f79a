"""
Reads from a real streaming replica: when it may answer, and when it is left out. What a write decides on is read from
the primary, however far a replica is behind; and writes honour `x-min-revision`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest

from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.ledger.migrate import grant, migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.calls import DEFAULT, create, get, sql
from services.registry.tests.server import Failing, Registry, revision_of, running


class Pair:
    """
    A primary and its replica, each of which a test may stop.
    """

    def __init__(self, primary: Postgres, replica: Postgres, supervisors: dict[str, Supervisor]) -> None:
        self.servers = {"primary": primary, "replica": replica}
        self._supervisors = supervisors

    def url(self, name: str, user: str = SERVICE_ROLE) -> str:
        return self.servers[name].url(user=user)

    def kill(self, name: str) -> None:
        self._supervisors[name].kill("postgresql")

    def start(self, name: str) -> None:
        self._supervisors[name].start([self.servers[name].part()])

    async def pause(self) -> None:
        """
        Let the replica receive what is written, but not apply it.
        """
        await self._sql("SELECT pg_wal_replay_pause()")
        while await self._sql("SELECT pg_get_wal_replay_pause_state()") != "paused":
            await asyncio.sleep(0.01)

    async def resume(self) -> None:
        await self._sql("SELECT pg_wal_replay_resume()")

    async def _sql(self, statement: str) -> object:
        connection = await asyncpg.connect(self.url("replica", "postgres"))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """
    A migrated primary with a replica that follows it.
    """
    with scratch() as state:
        supervisors = {name: Supervisor(state / f"{name}-log") for name in ("primary", "replica")}
        try:
            primary = Postgres.inside(state)
            supervisors["primary"].start([primary.part()])
            asyncio.run(_migrate(primary.url()))
            found = Pair(primary, primary.replicate(state / "replica"), supervisors)
            found.start("replica")
            yield found
        finally:
            for supervisor in supervisors.values():
                supervisor.stop()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection, migrations(FOLDER))
    await grant(connection, FOLDER, SERVICE_ROLE)
    await connection.close()


@asynccontextmanager
async def registry_on(pair: Pair, lag: str = "60") -> AsyncIterator[Registry]:
    """
    A registry that knows both.
    """
    replicas = {"MODELYARD_DATABASE_REPLICA_URLS": pair.url("replica"), "MODELYARD_DATABASE_REPLICA_LAG_SECONDS": lag}
    async with running(pair.url("primary"), **replicas) as registry:
        await caught_up(registry)
        yield registry


async def caught_up(registry: Registry) -> None:
    """
    Wait until reads go to the replica, and it has the newest that there is.
    """
    made = await create(registry, f"m{time.monotonic_ns()}")
    async with asyncio.timeout(30):
        while not _metric(registry, "serving") or _metric(registry, "revision") < made.revision:
            await asyncio.sleep(0.05)


def _metric(registry: Registry, name: str) -> float:
    value = registry.server.metrics.registry.get_sample_value(
        f"modelyard_database_replica_{name}", {"server": "replica 1"}
    )
    assert value is not None
    return value


async def reaches(registry: Registry, revision: int, within: float = 10) -> None:
    """
    Fails unless reads that ask for nothing reflect *revision* soon.
    """
    ends = time.monotonic() + within
    while await seen(registry) < revision:
        assert time.monotonic() < ends, f"revision {revision} is not seen"
        await asyncio.sleep(0.02)


async def seen(registry: Registry, least: int = 0) -> int:
    """
    The revision that a list reflects, when the caller asks for *least*.
    """
    metadata = (("x-min-revision", str(least)),) if least else ()
    call = registry.models.ListModels(models_pb2.ListModelsRequest(parent=DEFAULT, page_size=1), metadata=metadata)
    await call
    return int(dict(await call.trailing_metadata())["x-revision"])


async def test_a_replica_answers_what_it_has_applied(pair: Pair) -> None:
    """
    Reads that ask for nothing may be old; one that asks for a revision the replica has not applied is answered by the
    primary, by get, list and search alike.
    """
    async with registry_on(pair) as registry:
        before = await seen(registry)
        await pair.pause()
        try:
            made = await create(registry, "written-while-paused", models_pb2.Model(description="pausing"))
            assert await seen(registry) == before
            get = models_pb2.GetModelRequest(name=made.name)
            with Failing() as failed:
                await registry.models.GetModel(get)
            assert failed.code is grpc.StatusCode.NOT_FOUND
            assert failed.trailing["x-revision"] == str(before)
            metadata = (("x-min-revision", str(made.revision)),)
            assert await registry.models.GetModel(get, metadata=metadata) == made
            assert await seen(registry, made.revision) == made.revision
            search = models_pb2.SearchModelsRequest(parent=DEFAULT, query="pausing")
            assert not (await registry.models.SearchModels(search)).models
            assert list((await registry.models.SearchModels(search, metadata=metadata)).models) == [made]
        finally:
            await pair.resume()
        await reaches(registry, made.revision)


async def test_readers_that_differ_share_a_batch(pair: Pair) -> None:
    """
    Gets that come together are read together, and each is as new as it asked for.
    """
    async with registry_on(pair) as registry:
        await pair.pause()
        try:
            made = [await create(registry, f"together-{n}") for n in range(4)]
            newest = (("x-min-revision", str(made[-1].revision)),)
            requests = [models_pb2.GetModelRequest(name=each.name) for each in made]
            answers = await asyncio.gather(
                *(registry.models.GetModel(each, metadata=newest) for each in requests),
                *(registry.models.GetModel(each) for each in requests),
                return_exceptions=True,
            )
            assert list(answers[:4]) == made
        finally:
            await pair.resume()


async def test_a_lagging_replica_is_left_out(pair: Pair) -> None:
    """
    A replica that is too far behind answers nothing until it has caught up.
    """
    async with registry_on(pair, lag="0.5") as registry:
        await pair.pause()
        try:
            made = await create(registry, "too-late")
            await reaches(registry, made.revision, within=5)
        finally:
            await pair.resume()
        # It serves again: what it has not applied is not seen at once. Where all is slow it may just then be left out.
        async with asyncio.timeout(30):
            while not await _answers_from_the_past(registry, pair):
                pass


async def _answers_from_the_past(registry: Registry, pair: Pair) -> bool:
    await caught_up(registry)
    await pair.pause()
    try:
        later = await create(registry, f"later-{time.monotonic_ns()}")
        return await seen(registry) < later.revision
    finally:
        await pair.resume()


async def test_a_dead_replica_costs_nobody_anything(pair: Pair) -> None:
    """
    No read fails when the replica is killed, and it serves again once it is up.
    """
    async with registry_on(pair) as registry:
        pair.kill("replica")
        made = await create(registry, "without-replica")
        assert [await seen(registry) for _ in range(20)] == [made.revision] * 20
        await asyncio.to_thread(pair.start, "replica")
        assert await _answers_from_the_past(registry, pair)


async def test_reads_outlive_the_primary(pair: Pair) -> None:
    """
    While the primary is down reads continue; writes, and reads that the replica may not answer, are UNAVAILABLE.
    """
    async with registry_on(pair) as registry:
        newest = await seen(registry)
        pair.kill("primary")
        try:
            assert [await seen(registry) for _ in range(20)] == [newest] * 20
            for call in (create(registry, "no"), seen(registry, newest + 1)):
                with Failing() as failed:
                    await call
                assert failed.code is grpc.StatusCode.UNAVAILABLE
        finally:
            await asyncio.to_thread(pair.start, "primary")


async def test_a_replica_that_never_was(pair: Pair) -> None:
    """
    The registry starts and serves without a replica that does not answer.
    """
    nowhere = "postgresql://modelyard_service@127.0.0.1:1/modelyard"
    async with running(pair.url("primary"), MODELYARD_DATABASE_REPLICA_URLS=nowhere) as registry:
        made = await create(registry, f"m{time.monotonic_ns()}")
        assert await seen(registry) == made.revision


async def test_a_version_is_finalized_while_the_replica_lags(pair: Pair) -> None:
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
    A write with an `x-min-revision` that the head has reached is done; with a later one it is rejected as a read is,
    FAILED_PRECONDITION REVISION_NOT_REACHED, and writes nothing: a client that has seen lost revisions must not build
    on them.
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
    When the resource does not exist either, the error is that of the revision, as with reads.
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
    An `x-min-revision` that is not a number is rejected, by writes as by reads.
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
    FinalizeVersion with a request id that was answered returns that response again, even if the version has been purged
    since; the id of another request is rejected before anything is read.
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
