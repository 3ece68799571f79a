"""
The checker of the cache's coherence: reads of every RPC that may be cached, through several cache processes, beside
writes of every kind, while links stall, processes are killed with -9, Valkey loses what it has, the log of changes is
trimmed and a replica is behind. It judges every answer by what the registry and the asset service say themselves:

* An answer is, to the byte, what was said at the revision that it bears.
* A read that sends `x-min-revision` is never answered with what was replaced at or before that revision.
* Nothing that is not marked stale was replaced for longer than the bound that the setting gives.

`make check-coherence MINUTES=10 SEED=…` is the long form; `make test` runs it with a third of the readers until every
kind of fault, of write and of answer has occurred (services/cache/tests/test_schedules.py tries many more schedules in
virtual time). Both print their seed, and how stale reads were.
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

from embedded.supervisor import Supervisor
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2_grpc
from tests.drills.coherence import assets, writers
from tests.drills.coherence.caches import Cache, Ways
from tests.drills.coherence.faults import Troubles
from tests.drills.coherence.history import Answered, History, Seen
from tests.drills.coherence.queries import Question, cached, first_page, questions
from tests.drills.coherence.servers import Servers

SECONDS = float(os.environ.get("MODELYARD_CHECK_SECONDS", "0"))
SEED = int(os.environ.get("MODELYARD_CHECK_SEED") or random.SystemRandom().randrange(2**32))
BOUND = 2.0
READERS = 36 if SECONDS else 12
# By then everything has been, on a machine of which much is asked.
_PATIENCE = 90.0
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


@dataclass
class Check:
    """
    A run on its way.
    """

    caches: Sequence[Cache]
    origins: dict[str, writers.Origin]
    troubles: Troubles
    seen: Seen
    failed: int = 0
    seconds: float = 0.0

    async def read(self, number: int) -> None:
        """
        Ask a cache anything, until cancelled; half of it what all readers ask, and what has changed most so far.
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
            wishes = {"x_min_revision": str(minimum)} if minimum else {}
            if luck > 0.97:
                wishes = {"cache_control": "no-cache"}
            await self._ask(cache, question, history, minimum, wishes)
            await asyncio.sleep(dice.uniform(0, 0.03))

    async def _ask(
        self, cache: Cache, question: Question, history: History, minimum: int, wishes: dict[str, str]
    ) -> None:
        assert cache.channel is not None
        began = time.monotonic()
        try:
            said = await question.ask(cache.channel, 3, **wishes)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                self.seen.wrong.append(f"{cache.name}: {question} with {wishes}: {error.code()} {error.details()}")
            self.failed += 1
            await asyncio.sleep(0.01)
            return
        history.add(Answered(question, said, minimum, began, time.monotonic(), cache.name))

    @property
    def joined(self) -> int:
        """
        How many reads have waited for a load that somebody else began.
        """
        return sum(cache.counts["joined"] for cache in self.caches)

    def missing(self) -> list[str]:
        """
        What has not been yet, and what nothing was learnt about so far.
        """
        lacks = [f"trouble: {kind}" for kind in sorted(self.troubles.missing)]
        for origin, kinds in (("registry", writers.WRITES), ("cdn", assets.WRITES)):
            lacks += [f"write: {kind}" for kind in sorted(set(kinds) - set(self.origins[origin].done))]
        lacks += [
            f"answers: {how}" for how in ("near", "shared", "miss", "bypass", "stale") if not self.seen.answers[how]
        ]
        lacks += [f"answers of {path}" for path in sorted(set(cached()) - set(self.seen.paths))]
        lacks += [] if self.joined else ["answers of a load that was joined"]
        return lacks

    async def go_on(self) -> None:
        """
        Do all of it for as long as said, and until nothing is missing.
        """
        registry, cdn = self.origins["registry"], self.origins["cdn"]
        tasks = [
            asyncio.create_task(registry.go_on(writers.WRITES, 0.05)),
            asyncio.create_task(cdn.go_on(assets.WRITES, 1.0)),
            *(asyncio.create_task(self.troubles.go_on()) for _ in self.caches),
            *(asyncio.create_task(self.read(number)) for number in range(READERS)),
        ]
        async with _working(tasks):
            began = time.monotonic()
            while not self.seen.wrong and not any(task.done() for task in tasks):
                await asyncio.sleep(0.5)
                self.seconds = time.monotonic() - began
                if self.seconds >= SECONDS and (self.seconds >= SECONDS + _PATIENCE or not await self._lacks()):
                    break

    async def _lacks(self) -> list[str]:
        for cache in self.caches:
            if not cache.busy.locked():
                async with cache.busy:
                    await cache.look()
        return self.missing()


@contextlib.asynccontextmanager
async def _working(tasks: list[asyncio.Task[None]]) -> AsyncIterator[None]:
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


def test_every_cached_rpc_is_asked() -> None:
    """
    An RPC whose answers may be cached is among the questions: a new one has to be added.
    """
    asked = {question.path for question in questions(assets.ASSETS, assets.STATIC, "")}
    assert asked == set(cached())


@pytest.fixture
def servers() -> Iterator[Servers]:
    """
    Servers of our own.
    """
    with scratch() as state:
        supervisor = Supervisor(Path(state) / "log")
        try:
            found = Servers.start(Path(state), supervisor)
            yield found
            found.drop()
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
            Cache("cache-1", supervisor, Ways(both, servers.cdn, one), BOUND, "envoy"),
            Cache(
                "cache-2",
                supervisor,
                Ways(both, servers.cdn, one),
                BOUND,
                "grpcio",
                "tests.drills.coherence.small_table_cache",
            ),
            Cache("cache-3", supervisor, Ways(second, servers.cdn, one), BOUND, "grpcio"),
        ]
        valkey = (servers.valkey.part(), servers.valkey.url)
        databases = (servers.postgres, servers.replica)
        troubles = Troubles(caches, supervisor, servers.second[0], valkey, databases, BOUND + 3, dice)
        try:
            await asyncio.gather(*(cache.start() for cache in caches))
            yield Check(caches, {"registry": registry, "cdn": cdn}, troubles, seen)
        finally:
            for cache in caches:
                await cache.stop()


@pytest.mark.timeout(SECONDS + _PATIENCE + 240)
async def test_no_answer_is_wrong(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    """
    No answer was never said at its revision, or is from before what its caller has seen, or, unless it is marked, is
    staler than the bound; and every kind of answer, of write and of trouble was there.
    """
    async with _check(servers) as check:
        with capsys.disabled():
            sys.stdout.write(f"\ncoherence: MODELYARD_CHECK_SEED={SEED}\n")
        await check.go_on()
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
        f"  {sum(seen.answers.values()):,} answers judged in {check.seconds:.0f} s ({dict(seen.answers)}), "
        f"{check.joined:,} joined, {seen.unsure:,} of them between writes at once; "
        f"{waiting:,} not judged, {check.failed:,} reads without one",
        f"  {seen.minimums:,} with x-min-revision; {seen.bounded:,} by the bound: p50 {at[0]:.0f} ms, "
        f"p99 {at[1]:.0f} ms, max {at[2]:.0f} ms stale",
        f"  moments at which all was asked: {points}; writes: {dict(check.origins['registry'].done)}, "
        f"{dict(check.origins['cdn'].done)}",
        f"  troubles: {dict(check.troubles.done)}",
    )
    return "\n".join((*lines, *(f"  WRONG {each}" for each in seen.wrong[:5]), ""))
