"""
Writes that come together are committed together.

A commit waits for the disk, and nobody else can take a revision meanwhile, so that one commit for thirty writes is what
makes thirty writers fast (group commit; the idea is that of DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", SIGMOD 1984; docs/adr/0009). Each write keeps a revision, an audit entry and an answer of its own.

A write has two parts (`Transaction`): until `last` it only reads and locks. In a group all first parts come before all
second parts, so that nobody waits for a row while a revision is held. A write that fails in its first part leaves the
group; when one fails in its second part, the group is rolled back and each of its writes is done by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from services.chassis.errors import ModelyardError
from services.ledger.model.calls import Write
from services.ledger.store.database import Database
from services.ledger.store.together import Done, Failed, Job, Together, fail
from services.ledger.store.trouble import Conflict
from services.ledger.store.writing import Work

T = TypeVar("T")

_ATTEMPTS = 4
_MOST_TOGETHER = 64
# While one group waits for the disk, the next one reads and locks.
_IN_FLIGHT = 2
_LAST_SECONDS = 2.0


class Writer:
    """
    Runs write transactions.

    Args:
        database: where.
        most_together: how many writes go together at most.
        in_flight: how many groups are under way at most, each with a connection.
    """

    def __init__(self, database: Database, most_together: int = _MOST_TOGETHER, in_flight: int = _IN_FLIGHT) -> None:
        self._database, self._most_together = database, most_together
        self._waiting: list[Job[Any]] = []
        self._touched: set[str] = set()
        self._free = in_flight
        self._groups: set[asyncio.Task[None]] = set()

    async def run(
        self, write: Write, work: Work[T], encode: Callable[[T], bytes], touches: Sequence[object] | None
    ) -> Done[T]:
        """
        Do a write once, however often it is sent.

        Args:
            work: reads, checks and writes in the transaction that it is given; it may be called again.
            encode: the answer, to be kept for retries.
            touches: the resources whose rows *work* locks, so that it can be grouped with others that touch none of
                them; None when it has to be alone.

        Raises:
            AlreadyExists: the request id was used for another request (REQUEST_ID_REUSED).
            Aborted: other writes got in the way several times.
        """
        names = None if touches is None or write.dry else frozenset(map(str, touches))
        job = Job(write, work, encode, names, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._start()
        try:
            return await job.done
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def close(self) -> None:
        """
        Wait for the writes in flight: their callers may have gone, and the connections are about to.
        """
        if self._groups:
            await asyncio.wait(self._groups, timeout=_LAST_SECONDS)

    def _start(self) -> None:
        while self._free and (group := self._take()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._do(group))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    def _take(self) -> list[Job[Any]]:
        """
        The writes that go together next, in the order in which they came, of those that touch nothing in flight.
        """
        group: list[Job[Any]] = []
        touched = set(self._touched)
        for job in self._waiting:
            if job.touches is None:
                if not group:
                    group = [job]
                break
            if touched.isdisjoint(job.keys):
                group.append(job)
                if len(group) == self._most_together:
                    break
            # What comes later must not overtake it on the same resource.
            touched |= job.keys
        for job in group:
            self._waiting.remove(job)
            self._touched |= job.keys
        # In one order everywhere: two processes that lock the same rows then never wait for each other.
        return sorted(group, key=lambda job: job.place)

    async def _do(self, group: list[Job[Any]]) -> None:
        alone: list[Job[Any]] = []
        try:
            alone = await self._attempt(group)
            for job in alone:
                await self._do_alone(job)
        except BaseException as error:
            for job in group:
                if not job.done.done():
                    job.done.set_exception(error) if isinstance(error, Exception) else job.done.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            for job in group:
                self._touched -= job.keys
            self._free += 1
            self._start()

    async def _do_alone(self, job: Job[Any]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            if job.done.done():
                return
            if not await self._attempt([job], final=attempt == _ATTEMPTS):
                return
            await asyncio.sleep(0.01 * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret

    async def _attempt(self, group: list[Job[Any]], *, final: bool = False) -> list[Job[Any]]:
        """
        Do the writes of a group in one transaction, and tell each how it went.

        Returns:
            Those that have to be done (again), each alone.
        """
        together = Together(self._database.primary, group)
        try:
            await together.run()
        except ModelyardError as error:
            left = [job for job in group if not job.done.done()]
            if isinstance(error, Conflict) and not final:
                return left
            fail(left, error)
        except Failed as failed:
            left = [job for job in group if not job.done.done()]
            if len(group) > 1 or (isinstance(failed.error, Conflict) and not final):
                return left
            fail(left, failed.error)
        return []
