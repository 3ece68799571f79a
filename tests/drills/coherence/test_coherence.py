"""
The coherence checker: reads of every cacheable RPC through several cache processes, concurrently with writes of every
kind, while links stall, processes are killed, Valkey loses data, the change log is trimmed and a replica lags. It
compares every response with those of the registry and the asset service themselves:

* A response is, byte for byte, the origin's response at the revision that it states.
* A read that sends `x-min-revision` never gets a response that was replaced at or before that revision.
* A response that is not marked stale was replaced at most as long ago as the configured bound.

`make check-coherence MINUTES=10 SEED=…` is the long form. `make test` runs it with a third of the readers until every
kind of fault, write and response has occurred (services/cache/tests/test_schedules.py tries many more schedules in
virtual time). Both print their seed and the measured staleness.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from embedded.s3 import S3
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2_grpc
from tests.drills.coherence import assets, writers
from tests.drills.coherence.caches import Cache, Upstreams
from tests.drills.coherence.faults import FaultInjector
from tests.drills.coherence.history import Answered, History, Seen
from tests.drills.coherence.queries import Question, cached, first_page, questions
from tests.drills.coherence.servers import Servers

SECONDS = float(os.environ.get("MODELYARD_CHECK_SECONDS", "0"))
SEED = int(os.environ.get("MODELYARD_CHECK_SEED") or random.SystemRandom().randrange(2**32))
BOUND = 2.0
READERS = 36 if SECONDS else 12
#: Seconds between two reads of a reader, and between two writes, at most.
READ_PAUSE, WRITE_PAUSE = 0.03, 0.05
# Time for every kind to occur on a loaded machine.
_PATIENCE = 180.0
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


@dataclass
class Check:
    """
    A run of the checker.

    Attributes:
        failed: reads without a response, because of faults.
        seconds: since the start.
    """

    caches: Sequence[Cache]
    origins: dict[str, writers.Origin]
    faults: FaultInjector
    seen: Seen
    failed: int = 0
    seconds: float = 0.0

    async def read(self, number: int) -> None:
        """
        Read through a cache until cancelled. Half of the reads are of a few queries that all readers share and of those
        that have changed most often so far.
        """
        cache = self.caches[number % len(self.caches)]
        dice = random.Random(f"{SEED} {number}")  # noqa: S311 - test data
        everything = [question for origin in self.origins.values() for question in origin.history.questions]
        few = random.Random(SEED).sample(everything, 3)  # noqa: S311 - the same of all readers
        often = self.origins["registry"].history.often
        while True:
            question = dice.choice(everything if dice.random() < 0.5 else (*few, *often(3)))
            history = self.origins[question.origin].history
            luck = dice.random()
            minimum = history.known if luck < 0.4 else 0
            headers = {"x_min_revision": str(minimum)} if minimum else {}
            if luck > 0.97:
                headers = {"cache_control": "no-cache"}
            await self._ask(cache, question, history, minimum, headers)
            await asyncio.sleep(dice.uniform(0, READ_PAUSE))

    async def _ask(
        self, cache: Cache, question: Question, history: History, minimum: int, headers: dict[str, str]
    ) -> None:
        assert cache.channel is not None
        began = time.monotonic()
        try:
            said = await question.ask(cache.channel, 3, **headers)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _TRANSIENT:
                self.seen.wrong.append(f"{cache.name}: {question} with {headers}: {error.code()} {error.details()}")
            self.failed += 1
            await asyncio.sleep(0.01)
            return
        history.add(Answered(question, said, minimum, began, time.monotonic(), cache.name))

    @property
    def joined(self) -> int:
        """
        The number of reads that have joined the load of another one.
        """
        return sum(cache.counts["joined"] for cache in self.caches)

    def missing(self) -> list[str]:
        """
        The kinds of faults, writes and responses that have not occurred yet.
        """
        missing = [f"fault: {kind}" for kind in sorted(self.faults.missing)]
        for origin, kinds in (("registry", writers.WRITES), ("cdn", assets.WRITES)):
            missing += [f"write: {kind}" for kind in sorted(set(kinds) - set(self.origins[origin].done))]
        missing += [
            f"responses: {how}" for how in ("near", "shared", "miss", "bypass", "stale") if not self.seen.answers[how]
        ]
        missing += [f"responses of {path}" for path in sorted(set(cached()) - set(self.seen.paths))]
        missing += [] if self.joined else ["responses of a joined load"]
        return missing

    async def run(self) -> None:
        """
        Run everything for the configured time and until nothing is missing.
        """
        registry, cdn = self.origins["registry"], self.origins["cdn"]
        tasks = [
            asyncio.create_task(registry.run(writers.WRITES, WRITE_PAUSE)),
            asyncio.create_task(cdn.run(assets.WRITES, 1.0)),
            *(asyncio.create_task(self.faults.run()) for _ in self.caches),
            *(asyncio.create_task(self.read(number)) for number in range(READERS)),
        ]
        async with _running(tasks):
            began = time.monotonic()
            while not self.seen.wrong and not any(task.done() for task in tasks):
                await asyncio.sleep(0.5)
                self.seconds = time.monotonic() - began
                if self.seconds >= SECONDS and (self.seconds >= SECONDS + _PATIENCE or not await self._missing_now()):
                    break

    async def _missing_now(self) -> list[str]:
        for cache in self.caches:
            if not cache.busy.locked():
                async with cache.busy:
                    await cache.read_metrics()
        return self.missing()


@contextlib.asynccontextmanager
async def _running(tasks: list[asyncio.Task[None]]) -> AsyncIterator[None]:
    """
    Run tasks while the block lasts, and raise the error of one that fails.
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


def test_every_cacheable_rpc_is_queried() -> None:
    """
    Every cacheable RPC is among the queries: a new one has to be added.
    """
    asked = {question.path for question in questions(assets.ASSETS, assets.STATIC, "")}
    assert asked == set(cached())


@pytest.fixture
def servers(s3: S3) -> Iterator[Servers]:
    """
    The origins and data services of this test.
    """
    with scratch() as state:
        supervisor = Supervisor(Path(state) / "log")
        try:
            found = Servers.start(Path(state), supervisor, s3)
            yield found
            found.kill()
        finally:
            supervisor.stop()


@contextlib.asynccontextmanager
async def _check(servers: Servers) -> AsyncIterator[Check]:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{servers.first}") as to_registry,
        grpc.aio.insecure_channel(f"127.0.0.1:{servers.cdn}") as to_cdn,
    ):
        dice, seen = random.Random(SEED), Seen()  # noqa: S311 - test data
        registry = writers.Registry(to_registry, History([], BOUND, seen), random.Random(SEED + 1))  # noqa: S311
        cdn = assets.Assets(to_cdn, History([], BOUND, seen), random.Random(SEED + 2))  # noqa: S311
        await asyncio.gather(registry.prepare(), cdn.prepare())
        page = await models_pb2_grpc.ModelServiceStub(to_registry).ListModels(first_page())
        asked = questions(assets.ASSETS, assets.STATIC, page.next_page_token)
        for name, origin in (("registry", registry), ("cdn", cdn)):
            own, known = [question for question in asked if question.origin == name], origin.history.known
            origin.history = History(own, BOUND, seen)
            origin.history.known = known
        both, second = (servers.first, servers.second[1]), (servers.second[1],)
        one, supervisor = servers.valkey.port, servers.supervisor
        caches = [
            Cache("cache-1", supervisor, Upstreams(both, servers.cdn, one), BOUND, "envoy"),
            Cache(
                "cache-2",
                supervisor,
                Upstreams(both, servers.cdn, one),
                BOUND,
                "grpcio",
                "tests.drills.coherence.small_table_cache",
            ),
            Cache("cache-3", supervisor, Upstreams(second, servers.cdn, one), BOUND, "grpcio"),
        ]
        valkey = (servers.valkey.part(), servers.valkey.url)
        databases = (servers.postgres, servers.replica)
        faults = FaultInjector(caches, supervisor, servers.second[0], valkey, databases, BOUND + 3, dice)
        try:
            await asyncio.gather(*(cache.start() for cache in caches))
            yield Check(caches, {"registry": registry, "cdn": cdn}, faults, seen)
        finally:
            for cache in caches:
                await cache.stop()


@pytest.mark.timeout(SECONDS + _PATIENCE + 240)
async def test_no_answer_is_wrong(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Every response is the origin's at its revision, is not older than the caller's `x-min-revision` and, unless marked
    stale, not older than the bound; and every kind of response, write and fault has occurred.
    """
    async with _check(servers) as check:
        with capsys.disabled():
            sys.stdout.write(f"\ncoherence: MODELYARD_CHECK_SEED={SEED}\n")
        await check.run()
        with capsys.disabled():
            sys.stdout.write(_report(check))
        assert check.seen.wrong == []
        assert check.missing() == []
        assert check.seen.minimums > 0
        assert check.seen.bounded > 0


def _report(check: Check) -> str:
    seen, stale = check.seen, sorted(check.seen.staleness)
    at = [stale[min(len(stale) - 1, int(share * len(stale)))] * 1000 for share in (0.5, 0.99, 1)] if stale else [0] * 3
    points = {name: len(origin.history.points) for name, origin in check.origins.items()}
    waiting = sum(origin.history.waiting for origin in check.origins.values())
    lines = (
        f"  {sum(seen.answers.values()):,} responses checked in {check.seconds:.0f} s ({dict(seen.answers)}), "
        f"{check.joined:,} joined, {seen.unsure:,} of them between concurrent writes; "
        f"{waiting:,} not checked, {check.failed:,} failed reads",
        f"  {seen.minimums:,} with x-min-revision; {seen.bounded:,} by the bound: p50 {at[0]:.0f} ms, "
        f"p99 {at[1]:.0f} ms, max {at[2]:.0f} ms stale",
        f"  observations of the origins: {points}; writes: {dict(check.origins['registry'].done)}, "
        f"{dict(check.origins['cdn'].done)}",
        f"  faults: {dict(check.faults.done)}",
    )
    return "\n".join((*lines, *(f"  WRONG {each}" for each in seen.wrong[:5]), ""))
