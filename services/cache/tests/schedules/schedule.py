"""
One schedule: clients, writers and faults for a virtual minute, drawn from one seed, with every answer checked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc

from services.cache.tests.schedules.fleet import BOUND, AbortedError, Cache, Call, Store
from services.cache.tests.schedules.registry import QUESTIONS, Question, Registry

_CLIENTS, _CACHES = 8, 2
# The only errors that a valid request may get.
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_MADE_UP = 10**12


class WrongError(AssertionError):
    """
    A wrong answer.
    """


@dataclass
class Outcome:
    """
    Totals of the schedules.

    Args:
        schedules: number of schedules.
        reads: answers that were checked, by `x-cache`.
        writes: number of revisions.
        choices: random durations, of messages in transit and of pauses; each decides which task runs next.
        counts: the counters of the caches.
        seconds: virtual seconds.
    """

    schedules: int = 0
    reads: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    choices: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Schedule:
    """
    Args:
        seed: of all random choices.
        seconds: virtual seconds of clients and faults.
        outcome: where to count.
    """

    seed: int
    seconds: float
    outcome: Outcome

    async def play(self) -> None:
        """
        Run it.

        Raises:
            WrongError: an answer was wrong.
        """
        self.dice = random.Random(self.seed)  # noqa: S311 - no secret hangs on it
        self.registry = Registry(self.dice)
        self.store = Store(self.registry)
        self.caches = [Cache(self.registry, self.store) for _ in range(_CACHES)]
        # The newest revision that each client has seen, which it sends as its minimum.
        self.seen = [1] * _CLIENTS
        self.ends = time.monotonic() + self.seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_CLIENTS):
                    group.create_task(self._read(number))
                group.create_task(self._write())
                group.create_task(self._inject_faults())
            await self._check_recovery()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            for cache in self.caches:
                cache.end()
                self.outcome.counts.update(cache.counts)
            self.outcome.choices += self.registry.choices
            self.outcome.writes += self.registry.revision - 1
            self.outcome.seconds += self.seconds
            self.outcome.schedules += 1

    async def _read(self, number: int) -> None:
        dice = self.dice
        while time.monotonic() < self.ends:
            cache, question = dice.choice(self.caches), dice.choice(QUESTIONS)
            luck = dice.random()
            try:
                if luck < 0.02:
                    await self._ask(cache, question, (("x-modelyard-subject", "refused"),), 0, honest=False)
                elif luck < 0.04:
                    await self._ask(cache, question, (("x-min-revision", str(_MADE_UP)),), 0, honest=False)
                elif luck < 0.06:
                    await self._ask(cache, question, (("cache-control", "no-cache"),), 0)
                elif luck < 0.08:
                    async with asyncio.timeout(dice.random() * 0.05):
                        await self._ask(cache, question, (), 0)
                elif luck < 0.4:
                    minimum = self.seen[number]
                    self.seen[number] = await self._ask(cache, question, (("x-min-revision", str(minimum)),), minimum)
                else:
                    await self._ask(cache, question, (), 0)
            except TimeoutError:
                pass
            await self._pause(0.0, 0.001, dice.random() * 0.2)

    async def _ask(
        self,
        cache: Cache,
        question: Question,
        metadata: tuple[tuple[str, str], ...],
        minimum: int,
        *,
        honest: bool = True,
    ) -> int:
        """
        Read, check the answer, and return the newest revision that the caller has seen.
        """
        began, call = time.monotonic(), Call(metadata)
        said: str | None
        try:
            said = (await cache.ask(question, call)).decode()
        except AbortedError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                if honest and error.code not in _PASSING:
                    raise self._wrong(question, call, began, f"a valid request failed with {error.code}") from None
                return minimum
            said = None
        if honest:
            self._check(question, said, call, minimum, began)
        return max(minimum, int(call.trailing["x-revision"]))

    def _check(self, question: Question, said: str | None, call: Call, minimum: int, began: float) -> None:
        registry, how, revision = self.registry, call.trailing["x-cache"], int(call.trailing["x-revision"])
        self.outcome.reads[how] += 1
        if registry.at(question, revision) != said:
            raise self._wrong(question, call, began, f"{said!r} is not the answer at {revision}")
        if minimum and said not in registry.said_since(question, minimum):
            raise self._wrong(question, call, began, f"{said!r} is older than the minimum {minimum}")
        if how != "stale" and said not in registry.said_since(question, registry.known_before(began - BOUND)):
            raise self._wrong(question, call, began, f"{said!r} is staler than {BOUND} s")

    def _wrong(self, question: Question, call: Call, began: float, what: str) -> WrongError:
        took, name = time.monotonic() - began, question.path.rpartition("/")[2]
        sent = dict(call.invocation_metadata())
        return WrongError(f"seed {self.seed}: {name} {sent}: {what}; {call.trailing}, after {took:.3f} s")

    async def _write(self) -> None:
        dice = self.dice
        while time.monotonic() < self.ends:
            revision = self.registry.write()
            if dice.random() < 0.5:
                self.seen[dice.randrange(_CLIENTS)] = revision
            await self._pause(0.0, 0.01, dice.random() * 0.5, dice.random() * 2)

    async def _pause(self, *seconds: float) -> None:
        self.registry.choices += 1
        await asyncio.sleep(self.dice.choice(seconds))

    async def _inject_faults(self) -> None:
        dice = self.dice
        while time.monotonic() < self.ends:
            await self._pause(dice.random() * 8)
            match dice.randrange(6):
                case 0:
                    self.registry.away = True
                    await self._pause(dice.random() * 5)
                    self.registry.away = False
                case 1:
                    dice.choice(self.caches).restart()
                case 2:
                    self.store.lose(1.0)
                case 3:
                    self.store.lose(0.3)
                case 4:
                    # Streams that are behind get a gap.
                    self.registry.oldest = self.registry.revision + 1
                case _:
                    pass

    async def _check_recovery(self) -> None:
        """
        Check that after the faults everything is soon served from L1 again, and is current.
        """
        self.registry.away = False
        # The last change may be unknown for so long.
        await asyncio.sleep(BOUND + 0.001)
        ends = time.monotonic() + 120
        for cache in self.caches:
            for question in QUESTIONS:
                call = Call(())
                while call.trailing.get("x-cache") != "near":
                    if time.monotonic() > ends:
                        raise self._wrong(question, call, ends, "never served from memory again")
                    call = Call(())
                    try:
                        said: str | None = (await cache.ask(question, call)).decode()
                    except AbortedError as error:
                        said = None if error.code is grpc.StatusCode.NOT_FOUND else "nothing"
                    await asyncio.sleep(0.05)
                if said != self.registry.at(question, self.registry.revision):
                    raise self._wrong(question, call, ends, f"{said!r} is not current")
