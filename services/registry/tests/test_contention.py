"""
Writers that want the same rows: several processes, locks that somebody else holds, processes that stop in the middle.

Two registries in one test process are two processes to the database: each has connections of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import asyncpg
import grpc
import pytest

from embedded.postgres import owner
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from services.ledger.model.calls import Write
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.database_errors import LockTimeout
from services.ledger.store.group_commit import WriteResult
from services.ledger.store.statements import Statement
from services.ledger.store.writer import Writer
from services.registry.model.models import Model, ModelDraft
from services.registry.model.names import ModelName, VersionName
from services.registry.store.models import ModelStore
from services.registry.store.pin_releases import PinReleaseStore
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    deploy,
    get,
    move,
    record,
    result,
    sql,
    status,
    update,
)
from services.registry.tests.server import Failing, Registry, running

CLIENTS = 32
# Each client makes all its kinds of writes once, and goes on for as long as this asks for.
TURNS = 8
SECONDS = float(os.environ.get("MODELYARD_CONTENTION_SECONDS", "0"))


@asynccontextmanager
async def holding(database: str, statement: str, *args: object) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    Somebody who locks rows by *statement* and keeps them until the block ends.
    """
    connection = await asyncpg.connect(owner(database))
    try:
        async with connection.transaction():
            await connection.execute(statement, *args)
            yield connection
    finally:
        await connection.close()


def rows_of(*models: str) -> tuple[str, list[str]]:
    """
    What locks the rows of models.
    """
    return "SELECT FROM models WHERE model_id = ANY($1::text[]) FOR UPDATE", list(models)


def retries(registry: Registry, cause: str) -> float:
    """
    How often writes of a registry were done again because of *cause*.
    """
    name = "modelyard_database_write_retries_total"
    return registry.server.metrics.registry.get_sample_value(name, {"cause": cause}) or 0.0


async def deadlocks(database: str) -> int:
    """
    How many deadlocks the database has broken.
    """
    connection = await asyncpg.connect(owner(database))
    try:
        found: int = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return found
    finally:
        await connection.close()


class Client:
    """
    Writes of every kind in turn, to models that others write to at the same time.
    """

    def __init__(self, registry: Registry, number: int, models: list[str]) -> None:
        self._registry, self._number, self._models = registry, number, models
        self._dice = random.Random(number)  # noqa: S311 - test data

    async def run(self, until: float) -> None:
        for turn in itertools.count():
            if turn >= TURNS and time.monotonic() >= until:
                return
            await self._write(f"c{self._number}-{turn}", turn)

    async def _write(self, own: str, turn: int) -> None:
        registry, model = self._registry, self._dice.choice(self._models)
        match turn % 8:
            case 0 | 2 | 4:
                await create(registry, own)
            case 1 | 3:
                await update(registry, model, models_pb2.Model(owner=own), ["owner"])
            case 5:
                await add_version(registry, model)
                await move(registry, model, ("a", 1), ("b", self._dice.randrange(2)))
            case 6:
                await record(registry, *(result(each, 1, "d", "m", 1.0) for each in self._models[:3]))
                await deploy(registry, own, model)
                await status(registry, own, "ROLLING_OUT")
            case _:
                await create(registry, own)
                await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/{own}"))
                await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{DEFAULT}/models/{own}"))


@pytest.mark.timeout(120)
async def test_two_processes_never_deadlock(database: str) -> None:
    """
    Whatever two processes write at the same time, the database never has to break a deadlock.
    """
    connection = await asyncpg.connect(owner(database))
    # A deadlock is broken soon, so that many fit into the time.
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''50ms''', current_database()); END $$"
    )
    await connection.close()
    async with running(database) as one, running(database) as two:
        models = [f"m{number}" for number in range(6)]
        for model in models:
            await create(one, model)
            await add_version(one, model)
        until = time.monotonic() + SECONDS
        clients = [Client((one, two)[number % 2], number, models) for number in range(CLIENTS)]
        await asyncio.gather(*(client.run(until) for client in clients))
        told = [retries(registry, "conflict") for registry in (one, two)]
        count = await sql(one, "SELECT count(*) FROM models")
    assert count > CLIENTS
    # The server counts the deadlocks of a connection when it ends, at the latest.
    assert (await deadlocks(database), told) == (0, [0, 0])


async def test_a_locked_row_stops_nobody_else(registry: Registry) -> None:
    """
    While the rows of two models are locked, writes to all other models complete, including those of the same group; the
    blocked writes complete once the rows are free.
    """
    for model in ("x", "y"):
        await create(registry, model)
    before = retries(registry, "lock")
    async with holding(registry.database, *rows_of("x", "y")):
        blocked = [
            asyncio.ensure_future(update(registry, model, models_pb2.Model(owner="late"), ["owner"])) for model in "xy"
        ]
        others = [asyncio.ensure_future(create(registry, f"a{number}")) for number in range(30)]
        again = asyncio.ensure_future(update(registry, "x", models_pb2.Model(task="later"), ["task"]))
        await asyncio.gather(*others)
        # Those that come later are not stopped by those that wait, either.
        await asyncio.gather(*(create(registry, f"b{number}") for number in range(30)))
        assert not any(each.done() for each in (*blocked, again))
    await asyncio.gather(*blocked, again)
    found = await get(registry, "x")
    assert (found.owner, found.task) == ("late", "later")
    assert retries(registry, "lock") > before


async def test_a_claimed_request_id_stops_nobody_else(registry: Registry) -> None:
    """
    While another process holds a request id, only the write that has the same id waits.
    """
    claim = "INSERT INTO requests (actor, request_id, action, digest) VALUES ('anonymous', 'held', 'x', '')"
    async with holding(registry.database, claim):
        held = asyncio.ensure_future(create(registry, "held", request_id="held"))
        await asyncio.gather(*(create(registry, f"m{number}", request_id=f"r{number}") for number in range(40)))
        assert not held.done()
        held.cancel()


async def test_a_lock_with_the_revision_in_hand_stops_nobody_else(registry: Registry) -> None:
    """
    A write that meets a lock only after it has taken the revision fails, and no other write waits for it.
    """
    other = namespaces_pb2.CreateNamespaceRequest(namespace_id="other")
    await registry.namespaces.CreateNamespace(other)
    held = "SELECT FROM namespace_usage WHERE namespace_id = $1 FOR UPDATE"
    async with holding(registry.database, held, "other"):
        request = models_pb2.CreateModelRequest(parent="namespaces/other", model_id="m")
        blocked = asyncio.ensure_future(registry.models.CreateModel(request))
        await asyncio.gather(*(create(registry, f"m{number}") for number in range(30)))
        with Failing() as failed:
            await blocked
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "LOCK_TIMEOUT")
    assert "namespace_usage" in failed.message


async def test_a_lock_that_stays_is_told(database: str) -> None:
    """
    A write that has waited for a lock up to its limit fails with an error that names the lock.
    """
    async with running(database) as registry:
        await create(registry, "x")
    async with open_database(DatabaseSettings(url=database)) as reached, holding(database, *rows_of("x")):
        models, writer = ModelStore(reached), Writer(reached, longest_lock_wait=0.3)
        name = ModelName("default", "x")
        write = Write("ann", "DeleteModel", "r", "", b"digest")
        work = partial(models.delete, name=name, etag="", keep=timedelta(days=1))
        with pytest.raises(LockTimeout, match=rf"the lock of a row of models, for {name} for \d+\.\d s"):
            await writer.run(write, work, lambda _: b"", [name])
        assert await reached.fetch(Statement("test.requests", "SELECT FROM requests")) == []


async def test_no_statement_waits_long_for_a_lock(database: str) -> None:
    """
    A statement that is no client's write, such as the claim of a version's pins, does not wait long for a lock, either.
    """
    async with running(database) as registry:
        await create(registry, "x")
        version = VersionName.parse((await add_version(registry, "x", ready=False)).name)
    settings = DatabaseSettings(url=database, lock_timeout=0.2)
    async with open_database(settings) as reached, holding(database, *rows_of("x")):
        with pytest.raises(LockTimeout, match="models"):
            await PinReleaseStore(reached).claim(version, 3)


async def test_what_a_stopped_process_holds_is_free_soon(database: str) -> None:
    """
    A process that is stopped in the middle of a write, with the revision in hand, stops the others for seconds only.
    """
    assert DatabaseSettings(url=database).idle_timeout <= 5
    stopped = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPS, database)
    try:
        _, how = await asyncio.to_thread(os.waitpid, stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)
        async with running(database) as registry:
            assert (await create(registry, "m")).revision == 2
    finally:
        stopped.kill()


# Stops itself when the answer is encoded: everything is written, and nothing is committed.
STOPS = """
import asyncio, os, signal, sys
from functools import partial
from services.ledger.model.calls import Write
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.writer import Writer
from services.registry.model.models import ModelDraft
from services.registry.model.names import ModelName
from services.registry.store.models import ModelStore

async def main():
    async with open_database(DatabaseSettings(url=sys.argv[1], idle_timeout=1.0)) as database:
        name = ModelName("default", "stopped")
        work = partial(ModelStore(database).create, name=name, draft=ModelDraft())
        write = Write("ann", "CreateModel", "r", "", b"digest")
        await Writer(database).run(write, work, lambda _: os.kill(os.getpid(), signal.SIGSTOP), [name])

asyncio.run(main())
"""


async def test_an_answer_that_cannot_be_made_hurts_nobody_else(database: str) -> None:
    """
    An error in rendering one response fails that write, and no other of its group.
    """
    async with open_database(DatabaseSettings(url=database)) as reached:
        models, writer = ModelStore(reached), Writer(reached)

        def encode(model: Model) -> bytes:
            if model.name.model == "m7":
                raise ValueError("it cannot be rendered")
            return b"answer"

        async def one(model: str) -> WriteResult[Model]:
            name = ModelName("default", model)
            write = Write("ann", "CreateModel", model, "", b"digest")
            return await writer.run(write, partial(models.create, name=name, draft=ModelDraft()), encode, [name])

        answers = await asyncio.gather(*(one(f"m{number}") for number in range(20)), return_exceptions=True)
    assert [number for number, each in enumerate(answers) if isinstance(each, BaseException)] == [7]
    assert isinstance(answers[7], ValueError)
