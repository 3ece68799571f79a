"""
Writers that want the same rows: several processes, locks that somebody else holds, processes that stop in the middle.

Two registries in one test process are two processes to the database: each has connections of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest

from modelyard.registry.v1 import models_pb2
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    deploy,
    get,
    move,
    owner,
    record,
    result,
    sql,
    status,
    update,
)
from services.registry.tests.yard import Failing, Registry, running

CLIENTS = 32
SECONDS = float(os.environ.get("MODELYARD_CONTENTION_SECONDS", "3"))


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
            if time.monotonic() > until:
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
