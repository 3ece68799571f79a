"""
The checker of the cache's coherence: random reads and writes through several cache processes while links are cut, hung
and slowed down and processes are killed with -9. It checks every answer:

* A read that sends `x-min-revision` is never answered with a value from before it.
* Whatever is answered was written, at the revision that the answer bears.
* Without `x-min-revision` no answer that is not marked stale is older than the bound that the setting gives.

`make check-coherence MINUTES=10` is the long form; `make test` runs it for some seconds. Both print how stale reads
were.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import models_pb2, models_pb2_grpc
from services.embedded import suite
from services.embedded.link import Link
from services.embedded.parts import Part, free_port
from services.embedded.postgres import SERVICE_ROLE, Postgres
from services.embedded.supervisor import Supervisor
from services.embedded.testing import scratch
from services.embedded.valkey import Valkey
from services.ledger.migrate import grant, migrate, migrations
from services.registry.migrate import FOLDER

SECONDS = float(os.environ.get("MODELYARD_CHECK_SECONDS", "15"))
CACHES, MODELS, WRITERS, READERS = 3, 20, 4, 12
PARENT = "namespaces/default"
BOUND = 2.0
# A process that nothing was done to for this long is undisturbed.
CALM = 4.0
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


@dataclass
class History:
    """
    What was written, and when that was acknowledged.

    Args:
        values: by model, what each write set, by its revision.
        sent: by model, every value that was ever sent.
        revisions: by model, those acknowledged, in order.
        acknowledged: by revision, when.
        newest: the newest revision acknowledged.
    """

    values: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    sent: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    revisions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[int, float] = field(default_factory=dict)
    newest: int = 0

    def wrote(self, name: str, revision: int, value: str, now: float) -> None:
        """
        A write was acknowledged.
        """
        self.values[name][revision] = value
        bisect.insort(self.revisions[name], revision)
        self.acknowledged[revision] = now
        self.newest = max(self.newest, revision)

    def staleness(self, name: str, revision: int, began: float) -> float:
        """
        How long before a read began the answer that it got was replaced: 0 for the newest one.
        """
        revisions = self.revisions[name]
        for newer in revisions[bisect.bisect_right(revisions, revision) :]:
            return max(0.0, began - self.acknowledged[newer])
        return 0.0


@dataclass
class Seen:
    """
    What the readers saw.

    Args:
        answers: by `x-cache`.
        calm: how stale answers of undisturbed processes were, in seconds.
        disturbed: of the others.
        failed: reads that got no answer.
        wrong: what must not be.
    """

    answers: Counter[str] = field(default_factory=Counter)
    calm: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    failed: int = 0
    wrong: list[str] = field(default_factory=list)


class Process:
    """
    A cache in a process of its own, whose ways to the registry and to Valkey can be cut.
    """

    def __init__(self, number: int, supervisor: Supervisor, registry: int, valkey: int) -> None:
        self.registry, self.valkey = Link(registry), Link(valkey)
        self.disturbed = 0.0
        self._number = number
        self._supervisor = supervisor
        self._service: suite.Service | None = None
        self.channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """
        Start it.
        """
        await self.registry.up()
        await self.valkey.up()
        self._service = suite.Service(
            name="cache",
            health="modelyard.cache.v1.CacheAdminService",
            needs=(),
            environment={
                "MODELYARD_REGISTRY_TARGET": f"127.0.0.1:{self.registry.port}",
                "MODELYARD_CDN_TARGET": "127.0.0.1:1",
                "MODELYARD_VALKEY_URL": f"redis://127.0.0.1:{self.valkey.port}/0",
                "MODELYARD_CACHE_STREAM_BOUND_SECONDS": str(BOUND),
                "MODELYARD_CACHE_WARM_PATIENCE_SECONDS": "0.2",
                "MODELYARD_LOG_LEVEL": "error",
            },
            workers=1,
            host="grpcio" if self._number % 2 else "envoy",
            port=free_port(),
            metrics_port=free_port(),
        )
        await asyncio.to_thread(self._supervisor.start, [self._part()])
        options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._service.port}", options=options)

    async def restart(self) -> None:
        """
        kill -9, and start it again.
        """
        await asyncio.to_thread(self._supervisor.kill, self._part().name)
        await asyncio.to_thread(self._supervisor.start, [self._part()])

    async def stop(self) -> None:
        """
        Close what is ours.
        """
        if self.channel is not None:
            await self.channel.close(None)
        await self.registry.down()
        await self.valkey.down()

    def _part(self) -> Part:
        assert self._service is not None
        return replace(self._service.part(), name=f"cache-{self._number}")


class Trouble:
    """
    Does something bad now and then.
    """

    def __init__(self, caches: list[Process], supervisor: Supervisor, registry: Part, dice: random.Random) -> None:
        self._caches = caches
        self._supervisor = supervisor
        self._registry = registry
        self._dice = dice
        self.done: Counter[str] = Counter()

    async def go_on(self) -> None:
        """
        One bad thing after the other, each to one process; the registry is killed now and then.
        """
        troubles = (self._cut, self._hang, self._slow, self._cut_valkey, self._hang_valkey, self._kill)
        while True:
            await asyncio.sleep(self._dice.uniform(0.2, 1.5))
            everybody = self._dice.random() < 1 / (1 + len(troubles))
            hit = self._caches if everybody else [self._dice.choice(self._caches)]
            trouble = self._kill_registry if everybody else self._dice.choice(troubles)
            self.done[trouble.__name__.strip("_").replace("_", " ")] += 1
            for cache in hit:
                cache.disturbed = float("inf")
            await trouble(hit[0])
            for cache in hit:
                cache.disturbed = time.monotonic()

    async def _cut(self, cache: Process) -> None:
        for _ in range(3):
            cache.registry.cut()
            await asyncio.sleep(0.2)

    async def _hang(self, cache: Process) -> None:
        cache.registry.hang()
        await asyncio.sleep(self._dice.uniform(0.5, 4))
        cache.registry.go_on()

    async def _slow(self, cache: Process) -> None:
        cache.registry.delay = 0.3
        await asyncio.sleep(self._dice.uniform(0.5, 2))
        cache.registry.delay = 0.0

    async def _cut_valkey(self, cache: Process) -> None:
        cache.valkey.cut()

    async def _hang_valkey(self, cache: Process) -> None:
        cache.valkey.hang()
        await asyncio.sleep(self._dice.uniform(0.5, 2))
        cache.valkey.go_on()

    async def _kill(self, cache: Process) -> None:
        await cache.restart()

    async def _kill_registry(self, _cache: Process) -> None:
        await asyncio.to_thread(self._supervisor.kill, "registry")
        await asyncio.to_thread(self._supervisor.start, [self._registry])


async def write(address: str, history: History, number: int) -> None:
    """
    Change models, one after the other, until cancelled. What is not acknowledged may have happened.
    """
    dice = random.Random(number)  # noqa: S311 - test data
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        models: Any = models_pb2_grpc.ModelServiceStub(channel)
        count = 0
        while True:
            name = f"{PARENT}/models/m{dice.randrange(MODELS)}"
            count += 1
            value = f"writer {number} {count}"
            history.sent[name].add(value)
            request = models_pb2.UpdateModelRequest(
                model=models_pb2.Model(name=name, owner=value), update_mask=FieldMask(paths=["owner"])
            )
            try:
                model = await models.UpdateModel(request, timeout=2)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            else:
                history.wrote(name, model.revision, value, time.monotonic())
            await asyncio.sleep(dice.uniform(0, 0.05))


async def read(caches: list[Process], history: History, seen: Seen, number: int) -> None:
    """
    Read models through any of the caches, and judge every answer, until cancelled.
    """
    dice = random.Random(1000 + number)  # noqa: S311 - test data
    while True:
        cache, name = dice.choice(caches), f"{PARENT}/models/m{dice.randrange(MODELS)}"
        minimum = history.newest if dice.random() < 0.5 else 0
        began = time.monotonic()
        disturbed = began - cache.disturbed < CALM
        stub: Any = models_pb2_grpc.ModelServiceStub(cache.channel)  # type: ignore[arg-type]
        metadata = (("x-min-revision", str(minimum)),) if minimum else ()
        call = stub.GetModel(models_pb2.GetModelRequest(name=name), metadata=metadata, timeout=3)
        try:
            model = await call
            how = dict(await call.trailing_metadata())["x-cache"]
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                raise
            seen.failed += 1
            await asyncio.sleep(0.01)
            continue
        seen.answers[how] += 1
        wrong = _judge(history, name, model, minimum)
        if wrong:
            seen.wrong.append(f"{how}: {wrong}")
        if not minimum and how != "stale":
            stale = history.staleness(name, model.revision, began)
            (seen.disturbed if disturbed or began - cache.disturbed < CALM else seen.calm).append(stale)
            if stale > BOUND:
                seen.wrong.append(f"{how}: {name} was {stale:.2f} s stale")
        await asyncio.sleep(dice.uniform(0, 0.01))


def _judge(history: History, name: str, model: models_pb2.Model, minimum: int) -> str:
    if model.owner and model.owner not in history.sent[name]:
        return f"{name} never was {model.owner!r}"
    if history.values[name].get(model.revision, model.owner) != model.owner:
        return f"{name} was not {model.owner!r} at {model.revision}"
    revisions = history.revisions[name]
    needed = revisions[bisect.bisect_right(revisions, minimum) - 1] if bisect.bisect_right(revisions, minimum) else 0
    if minimum and model.revision < needed:
        return f"{name} as of {model.revision}, although {minimum} was asked for and it changed at {needed}"
    return ""


@pytest.fixture
def servers() -> Iterator[tuple[Supervisor, Postgres, Valkey]]:
    """
    A PostgreSQL and a Valkey of our own.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        postgres, valkey = Postgres.inside(state), Valkey(free_port())
        try:
            supervisor.start([postgres.part(), valkey.part()])
            yield supervisor, postgres, valkey
        finally:
            supervisor.stop()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection, migrations(FOLDER))
    await grant(connection, FOLDER, SERVICE_ROLE)
    await connection.close()


@contextlib.asynccontextmanager
async def working(tasks: list[asyncio.Task[None]]) -> AsyncIterator[None]:
    """
    Run tasks for as long as the block lasts; one that fails ends it.
    """
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(SECONDS + 120)
async def test_no_answer_is_wrong(
    servers: tuple[Supervisor, Postgres, Valkey], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Under reads, writes, kills and partitions no answer is older than what its caller has seen, none was never written,
    and none that is not marked is staler than the bound.
    """
    supervisor, postgres, valkey = servers
    await _migrate(postgres.url())
    registry = suite.Service(
        name="registry",
        health="modelyard.registry.v1.ModelService",
        needs=(),
        environment={
            "MODELYARD_DATABASE_URL": postgres.url(user=SERVICE_ROLE),
            "MODELYARD_CDN_TARGET": "127.0.0.1:1",
            "MODELYARD_LOG_LEVEL": "error",
        },
        workers=1,
        host="envoy",
        port=free_port(),
        metrics_port=free_port(),
    )
    await asyncio.to_thread(supervisor.start, [registry.part()])
    address = f"127.0.0.1:{registry.port}"
    history, seen = History(), Seen()
    async with grpc.aio.insecure_channel(address) as channel:
        models: Any = models_pb2_grpc.ModelServiceStub(channel)
        for number in range(MODELS):
            made = await models.CreateModel(
                models_pb2.CreateModelRequest(parent=PARENT, model_id=f"m{number}", model=models_pb2.Model())
            )
            history.wrote(made.name, made.revision, "", time.monotonic())

    caches = [Process(number, supervisor, registry.port, valkey.port) for number in range(CACHES)]
    dice = random.Random(20261124)  # noqa: S311 - the same troubles in every run
    trouble = Trouble(caches, supervisor, registry.part(), dice)
    try:
        await asyncio.gather(*(cache.start() for cache in caches))
        tasks = [
            *(asyncio.create_task(write(address, history, number)) for number in range(WRITERS)),
            *(asyncio.create_task(read(caches, history, seen, number)) for number in range(READERS)),
            asyncio.create_task(trouble.go_on()),
        ]
        async with working(tasks):
            ends = time.monotonic() + SECONDS
            while time.monotonic() < ends and not seen.wrong and not any(task.done() for task in tasks):
                await asyncio.sleep(0.2)
    finally:
        for cache in caches:
            await cache.stop()
    with capsys.disabled():
        sys.stdout.write(_report(seen, history, trouble))
    assert seen.wrong == []
    assert seen.answers["near"] > 100
    assert len(history.acknowledged) > 100
    assert sum(trouble.done.values()) >= min(SECONDS / 10, 3)


def _report(seen: Seen, history: History, trouble: Trouble) -> str:
    def line(name: str, stale: list[float]) -> str:
        if not stale:
            return f"  {name}: none"
        ordered = sorted(stale)
        at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 for share in (0.5, 0.99, 1)]
        return f"  {name}: {len(ordered):,} reads, p50 {at[0]:.1f} ms, p99 {at[1]:.1f} ms, max {at[2]:.1f} ms"

    return "\n".join(
        (
            "",
            f"coherence: {sum(seen.answers.values()):,} answers in {SECONDS:.0f} s ({dict(seen.answers)}), "
            f"{seen.failed:,} without one, {len(history.acknowledged):,} writes, {dict(trouble.done)}",
            line("staleness without x-min-revision, undisturbed", seen.calm),
            line("staleness without x-min-revision, disturbed", seen.disturbed),
            "",
        )
    )
