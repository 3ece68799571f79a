"""
64 writers and 8 watchers, while the service and PostgreSQL are killed with -9: nothing acknowledged is lost, nothing is
half there, and every watcher is told every revision once and in order.

`make drill` writes 10,000 times; `make test` 250 times with a quarter of the writers, and one kill each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from embedded import suite
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    aliases_pb2,
    aliases_pb2_grpc,
    changes_pb2_grpc,
    evaluations_pb2,
    evaluations_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    versions_pb2,
    versions_pb2_grpc,
)
from services.ledger.migrate import grant, migrate, migrations
from services.registry.migrate import FOLDER

WRITES = int(os.environ.get("MODELYARD_DRILL_WRITES", "250"))
WRITERS, WATCHERS = (64, 8) if WRITES >= 1000 else (16, 4)
KILLS = max(2, WRITES // 1000)
PARENT = "namespaces/default"
TIMEOUT = 2.0
# How often a connection is tried again, so that nobody waits for longer than the service takes to come back.
OFTEN = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]


class Suite:
    """
    A registry in processes of its own on a durable PostgreSQL of its own.
    """

    def __init__(self, state: Path, host: str) -> None:
        self._supervisor = Supervisor(state / "log")
        self.postgres = Postgres.inside(state)
        self._supervisor.start([self.postgres.part()])
        asyncio.run(_migrate(self.postgres.url()))
        self._service = suite.Service(
            name="registry",
            health="modelyard.registry.v1.ModelService",
            needs=(),
            environment={
                "MODELYARD_DATABASE_URL": self.postgres.url(user=SERVICE_ROLE),
                "MODELYARD_CDN_TARGET": "127.0.0.1:1",
                "MODELYARD_LOG_LEVEL": "error",
            },
            workers=2,
            host=host,
            port=suite.ports(2),
            metrics_port=suite.ports(2),
        )
        self._supervisor.start([self._service.part()])
        self.addresses = [f"{host}:{port}" for host, port in self._service.addresses]

    def restart(self, name: str) -> None:
        """
        kill -9 of `registry` (all of its processes) or `postgresql`, and start it again.
        """
        self._supervisor.kill(name)
        self._supervisor.start([self.postgres.part() if name == "postgresql" else self._service.part()])

    def stop(self) -> None:
        self._supervisor.stop()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection, migrations(FOLDER))
    await grant(connection, FOLDER, SERVICE_ROLE)
    await connection.close()


@pytest.fixture(scope="module", params=["envoy", "grpcio"] if WRITES > 1000 else ["envoy"])
def yard(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """
    A yard whose parts are killed.
    """
    with scratch() as state:
        found = Suite(state, request.param)
        try:
            yield found
        finally:
            found.stop()


@dataclass
class Written:
    """
    What a writer was told.

    Args:
        sent: request ids of all writes that were sent.
        acknowledged: the revision by request id.
    """

    sent: set[str] = field(default_factory=set)
    acknowledged: dict[str, int] = field(default_factory=dict)


class Writer:
    """
    Creates models and works on them. A write that nobody answers is sent again with the same request id.
    """

    def __init__(self, number: int, address: str, written: Written, left: list[int]) -> None:
        self._number = number
        self._channel = grpc.aio.insecure_channel(address, options=OFTEN)
        self._models = models_pb2_grpc.ModelServiceStub(self._channel)
        self._versions = versions_pb2_grpc.VersionServiceStub(self._channel)
        self._aliases = aliases_pb2_grpc.AliasServiceStub(self._channel)
        self._evaluations = evaluations_pb2_grpc.EvaluationServiceStub(self._channel)
        self._written = written
        self._left = left
        self._model = ""
        self._dice = random.Random(number)  # noqa: S311 - test data

    async def run(self) -> None:
        """
        Write until nothing is left to be written.
        """
        async with self._channel:
            while self._left[0] > 0:
                self._left[0] -= 1
                request_id = f"{self._number}-{self._left[0]}"
                self._written.sent.add(request_id)
                method, request = self._next(request_id)
                while (error := await self._send(method, request, request_id)) is not None:
                    if error.code() not in _RETRIED:
                        # Work on a version that is not there: the writer does not look before.
                        if error.code() is not grpc.StatusCode.NOT_FOUND:
                            raise error
                        break
                    await asyncio.sleep(0.05)

    async def _send(self, method: Any, request: Any, request_id: str) -> grpc.aio.AioRpcError | None:
        try:
            call = method(request, timeout=TIMEOUT)
            await call
            self._written.acknowledged[request_id] = int(dict(await call.trailing_metadata())["x-revision"])
        except grpc.aio.AioRpcError as error:
            return error
        return None

    def _next(self, request_id: str) -> tuple[Any, Any]:
        turn = self._dice.randrange(5) if self._model else 0
        name = self._model
        if turn == 0:
            self._model = f"{PARENT}/models/drill-{request_id}"
            create = models_pb2.CreateModelRequest(
                parent=PARENT,
                model_id=f"drill-{request_id}",
                model=models_pb2.Model(owner=request_id),
                request_id=request_id,
            )
            return self._models.CreateModel, create
        if turn == 1:
            update = models_pb2.UpdateModelRequest(
                model=models_pb2.Model(name=name, owner=request_id),
                update_mask=FieldMask(paths=["owner"]),
                request_id=request_id,
            )
            return self._models.UpdateModel, update
        if turn == 2:
            version = versions_pb2.Version(description=request_id)
            create_version = versions_pb2.CreateVersionRequest(parent=name, version=version, request_id=request_id)
            return self._versions.CreateVersion, create_version
        if turn == 3:
            result = evaluations_pb2.Evaluation(version=f"{name}/versions/1", dataset="d", metric="m", value=1)
            record = evaluations_pb2.RecordEvaluationsRequest(
                parent=PARENT, evaluations=[result] * 3, request_id=request_id
            )
            return self._evaluations.RecordEvaluations, record
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id=f"a{self._dice.randrange(3)}")
        moves = aliases_pb2.MoveAliasesRequest(parent=name, moves=[move], request_id=request_id)
        return self._aliases.MoveAliases, moves


# What a kill may answer: a worker whose parent was killed ends itself, and cancels what it has.
_RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class Watcher:
    """
    Watches all changes, coming back after every break with the next revision.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.told: list[changes_pb2.Revision] = []
        self.breaks = 0

    async def run(self) -> None:
        """
        Watch until cancelled.
        """
        async with grpc.aio.insecure_channel(self._address, options=OFTEN) as channel:
            stub = changes_pb2_grpc.ChangeServiceStub(channel)
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for message in self._watch(stub):
                        assert not message.HasField("discontinuity")
                        if message.HasField("revision"):
                            self.told.append(message.revision)
                self.breaks += 1
                await asyncio.sleep(0.05)

    async def _watch(self, stub: changes_pb2_grpc.ChangeServiceStub) -> AsyncIterator[changes_pb2.WatchChangesResponse]:
        after = self.told[-1].revision if self.told else 1
        request = changes_pb2.WatchChangesRequest(start_revision=after + 1, heartbeat_interval=Duration(seconds=1))
        call: Any = stub.WatchChanges(request)
        try:
            async for message in call:
                yield message
        finally:
            call.cancel()


@pytest.mark.timeout(900)
def test_kills_lose_and_repeat_nothing(yard: Suite) -> None:
    """
    Every acknowledged write has its audit entry and its change event, with the acknowledged revision; no other write is
    stored partly; every watcher received every revision once, in order.
    """
    asyncio.run(_drill(yard))


async def _drill(yard: Suite) -> None:
    written, left = Written(), [WRITES]
    watchers = [Watcher(yard.addresses[n % 2]) for n in range(WATCHERS)]
    watching = [asyncio.create_task(each.run()) for each in watchers]
    writers = [Writer(n, yard.addresses[n % 2], written, left) for n in range(WRITERS)]
    writing = [asyncio.create_task(each.run()) for each in writers]
    for number in range(KILLS):
        while left[0] > WRITES - WRITES * (number + 1) // (KILLS + 1):
            await asyncio.sleep(0.02)
            for task in (*writing, *watching):
                if task.done():
                    task.result()
        await asyncio.to_thread(yard.restart, ("registry", "postgresql")[number % 2])
    await asyncio.gather(*writing)
    connection = await asyncpg.connect(yard.postgres.url())
    try:
        head = await connection.fetchval("SELECT value FROM revision")
        await _caught_up(watchers, head)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        assert len(written.acknowledged) > WRITES * 0.8
        for watcher in watchers:
            assert [each.revision for each in watcher.told] == list(range(2, head + 1))
            assert watcher.breaks >= KILLS / 2
            assert watcher.told == watchers[0].told
        await _check_database(connection, written, watchers[0].told)
    finally:
        await connection.close()


async def _caught_up(watchers: list[Watcher], head: int) -> None:
    async with asyncio.timeout(30):
        while any(not watcher.told or watcher.told[-1].revision < head for watcher in watchers):
            await asyncio.sleep(0.05)


async def _check_database(
    connection: asyncpg.Connection[asyncpg.Record], written: Written, told: list[changes_pb2.Revision]
) -> None:
    audit = await connection.fetch("SELECT revision, request_id, action, resource FROM audit WHERE revision > 1")
    by_request = {row["request_id"]: row for row in audit}
    changed = {each.revision: {change.resource for change in each.changes} for each in told}
    # What was acknowledged is in the audit and in the stream, with the revision that was answered. A move of an alias
    # that is not there is acknowledged and writes nothing.
    for request_id, revision in written.acknowledged.items():
        row = by_request.get(request_id)
        if row is not None:
            assert row["revision"] == revision
            assert row["resource"] in changed[revision]
    silent = [each for each in written.acknowledged if each not in by_request]
    stored = await connection.fetch("SELECT request_id, action, revision, answer FROM requests")
    remembered = {row["request_id"]: row for row in stored}
    assert {remembered[each]["action"] for each in silent} <= {"MoveAliases"}
    assert set(written.acknowledged) <= set(remembered)
    # Nothing is half there: each revision has its changes and its audit, each request was done once, each model and
    # each result belongs to a write that is audited, and versions have no gaps.
    assert sorted({row["revision"] for row in audit}) == sorted(changed)
    assert [row for row in audit if by_request[row["request_id"]]["revision"] != row["revision"]] == []
    assert set(by_request) <= written.sent
    assert all(row["answer"] is not None for row in stored)
    for what, sql in _HALVES.items():
        assert await connection.fetchval(sql) == 0, what


_HALVES = {
    "models without an audited creation": """
SELECT count(*) FROM models LEFT JOIN audit
    ON audit.resource = 'namespaces/default/models/' || model_id AND action = 'CreateModel' WHERE audit.revision IS NULL
""",
    "audited creations without a model": """
SELECT count(*) FROM audit LEFT JOIN models ON audit.resource = 'namespaces/default/models/' || model_id
 WHERE action = 'CreateModel' AND models.id IS NULL
""",
    "results that are not three of a write": """
SELECT count(*) FROM (SELECT revision FROM evaluations GROUP BY revision HAVING count(*) <> 3) AS torn
""",
    "versions with gaps": """
SELECT count(*) FROM models
 WHERE latest_version <> (SELECT coalesce(max(number), 0) FROM versions WHERE model = models.id)
    OR latest_version <> (SELECT count(*) FROM versions WHERE model = models.id)
""",
    "a namespace that counts wrongly": """
SELECT count(*) FROM namespace_usage WHERE models <> (SELECT count(*) FROM models)
""",
}
