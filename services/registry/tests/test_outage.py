"""
What callers see when PostgreSQL is busy, killed, or not there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from embedded.postgres import Postgres, owner
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from services.chassis.errors import FailedPrecondition, Unavailable
from services.ledger.migrate import migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.calls import DEFAULT, create, get, sql, watch
from services.registry.tests.server import Failing, Registry, running


class Server:
    """
    A PostgreSQL server that a test may kill.
    """

    def __init__(self, supervisor: Supervisor, postgres: Postgres) -> None:
        self._supervisor = supervisor
        self._postgres = postgres
        self.database = postgres.url()

    def kill(self) -> None:
        """
        kill -9 of the postmaster; its children end by themselves.
        """
        self._supervisor.kill("postgresql")

    def start(self) -> None:
        """
        Start it (again).
        """
        self._supervisor.start([self._postgres.part()])


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """
    A server of one's own, migrated.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        try:
            server = Server(supervisor, Postgres.inside(state))
            server.start()
            asyncio.run(_migrate(server.database))
            yield server
        finally:
            supervisor.stop()


async def _migrate(database: str) -> None:
    connection = await asyncpg.connect(database)
    await migrate(connection, migrations(FOLDER))
    await connection.close()


async def recovered(registry: Registry, within: float) -> None:
    """
    Fails unless reads work again *within* seconds.
    """
    ends = time.monotonic() + within
    while True:
        try:
            await read(registry)
        except grpc.aio.AioRpcError:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def read(registry: Registry, **more: Any) -> namespaces_pb2.Namespace:
    """
    A read that is not batched with others.
    """
    request = namespaces_pb2.GetNamespaceRequest(name=DEFAULT)
    return await registry.namespaces.GetNamespace(request, **more)


async def test_calls_fail_fast_and_recover(mortal: Server) -> None:
    """
    While PostgreSQL is down every call fails fast with UNAVAILABLE, change streams end with an error, and everything
    works again once it is up.
    """
    async with running(mortal.database) as registry:
        await create(registry, "before")
        request = {"heartbeat_interval": Duration(nanos=200_000_000)}
        async with aclosing(watch(registry, **request)) as messages:
            await anext(messages)
            mortal.kill()
            for call in (get(registry, "before"), create(registry, "during"), registry.models.SearchModels(_search())):
                began = time.monotonic()
                with Failing() as failed:
                    await call
                assert failed.code is grpc.StatusCode.UNAVAILABLE
                assert time.monotonic() - began < 2
            with Failing() as failed:
                async with asyncio.timeout(5):
                    async for _ in messages:
                        pass
            assert failed.code is grpc.StatusCode.UNAVAILABLE
        await asyncio.to_thread(mortal.start)
        await recovered(registry, within=5)
        assert (await get(registry, "before")).name.endswith("before")
        await create(registry, "after")
        async with aclosing(watch(registry, start_revision=1)) as messages:
            assert (await anext(messages)).HasField("heartbeat")


def _search() -> models_pb2.SearchModelsRequest:
    return models_pb2.SearchModelsRequest(parent=DEFAULT, query="x")


async def test_nothing_acknowledged_is_lost(mortal: Server) -> None:
    """
    kill -9 of PostgreSQL under writers: every acknowledged write is there with its audit row and its change event, and
    nothing is half there; retried with its request id, what was not acknowledged is done once.
    """
    acknowledged: dict[str, int] = {}

    async def write(registry: Registry, index: int) -> None:
        for n in range(20):
            name = f"crash-{index}-{n}"
            for _ in range(200):
                try:
                    acknowledged[name] = (await create(registry, name, request_id=name)).revision
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.05)

    async with running(mortal.database) as registry:
        writers = [asyncio.create_task(write(registry, index)) for index in range(8)]
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        mortal.kill()
        await asyncio.to_thread(mortal.start)
        async with asyncio.timeout(30):
            await asyncio.gather(*writers)
        found = await sql(
            registry, "SELECT json_object_agg(model_id, revision)::text FROM models WHERE model_id ~ '^crash'"
        )
        assert len(acknowledged) == 160
        assert acknowledged == json.loads(found)
        head = await sql(registry, "SELECT value FROM revision")
        assert await sql(registry, "SELECT array_agg(revision ORDER BY revision) FROM changes") == list(
            range(1, head + 1)
        )
        assert await sql(registry, "SELECT array_agg(revision ORDER BY revision) FROM audit") == list(
            range(1, head + 1)
        )
        orphans = "SELECT count(*) FROM models JOIN audit USING (revision) WHERE audit.resource !~ (model_id || '$')"
        assert await sql(registry, orphans) == 0


@asynccontextmanager
async def blocked(database: str) -> AsyncIterator[None]:
    """
    Statements on namespaces wait until the block ends.
    """
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE namespaces IN ACCESS EXCLUSIVE MODE")
        yield
    await connection.close()


SMALL = {"MODELYARD_DATABASE_POOL_MIN": "1", "MODELYARD_DATABASE_POOL_MAX": "2"}


async def test_busy_pool(database: str) -> None:
    """
    When every connection is busy, a call waits a while and then fails with RESOURCE_EXHAUSTED; it is not stuck.
    """
    async with running(database, MODELYARD_DATABASE_POOL_WAIT_SECONDS="0.2", **SMALL) as registry:
        async with blocked(database):
            busy = [asyncio.ensure_future(read(registry)) for _ in range(2)]
            await asyncio.sleep(0.1)
            with Failing() as failed:
                await read(registry)
            assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DATABASE_BUSY")
        for found in await asyncio.gather(*busy):
            assert found.name == DEFAULT


async def test_cancelled_calls_give_their_connection_back(database: str) -> None:
    """
    Calls that run into their deadline or are cancelled while the database works do not use up the pool, and their
    statements end.
    """
    async with running(database, **SMALL) as registry:
        async with blocked(database):
            for _ in range(6):
                with Failing() as failed:
                    await read(registry, timeout=0.1)
                assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
                call = asyncio.ensure_future(read(registry))
                await asyncio.sleep(0.05)
                call.cancel()
        assert (await read(registry)).name == DEFAULT
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        assert await sql(registry, waiting) == 0


async def test_waiting_calls_that_give_up(database: str) -> None:
    """
    Calls that give up while they wait for a connection leave it to the others.
    """
    async with running(database, **SMALL) as registry:
        async with blocked(database):
            busy = [asyncio.ensure_future(read(registry)) for _ in range(2)]
            await asyncio.sleep(0.05)
            impatient = [asyncio.ensure_future(read(registry, timeout=0.1)) for _ in range(20)]
            patient = [asyncio.ensure_future(read(registry)) for _ in range(20)]
            await asyncio.wait(impatient)
        assert all(found.name == DEFAULT for found in await asyncio.gather(*busy, *patient))
        for each in impatient:
            with Failing() as failed:
                await each
            assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_conflicts_are_retried(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """
    A transaction that PostgreSQL chose as a deadlock's victim is done again, a few times; then the call is ABORTED.
    What was done again is counted and logged, though it succeeded.
    """
    trigger = """
    CREATE SEQUENCE attempts;
    GRANT USAGE ON SEQUENCE attempts TO modelyard_service;
    CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('attempts') % 10 IN (1, 2) OR new.owner = 'unlucky' THEN
            RAISE EXCEPTION 'chosen' USING ERRCODE = 'deadlock_detected';
        END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER loses BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION lose();
    """
    connection = await asyncpg.connect(owner(registry.database))
    await connection.execute(trigger)
    await connection.close()
    assert (await create(registry, "m", request_id="r")).revision == 2
    assert await sql(registry, "SELECT last_value FROM attempts") == 3
    name, labels = "modelyard_database_write_retries_total", {"cause": "conflict"}
    assert registry.server.metrics.registry.get_sample_value(name, labels) == 2
    assert "retrying 1 writes (conflict)" in caplog.text
    with Failing() as failed:
        await create(registry, "n", models_pb2.Model(owner="unlucky"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "TRANSACTION_CONFLICT")
    assert await sql(registry, "SELECT value FROM revision") == 2


async def test_start_without_database() -> None:
    """
    A database that does not answer in time is said in one clear line.
    """
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        async with running("postgresql://postgres@127.0.0.1:1/x", MODELYARD_DATABASE_STARTUP_SECONDS="0.3"):
            pass


async def test_start_without_schema(postgres: Postgres) -> None:
    """
    A database that was not migrated is said, with what to do.
    """
    postgres.sql("CREATE DATABASE bare")
    with pytest.raises(FailedPrecondition, match=r"python -m services\.registry\.migrate"):
        async with running(postgres.url("bare")):
            pass
