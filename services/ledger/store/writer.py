"""
Group commit: concurrent writes share a transaction.

A commit waits for the disk, and no other revision can be assigned meanwhile, so that one commit for thirty writes is
what makes thirty writers fast (the idea is that of DeWitt et al., "Implementation Techniques for Main Memory Database
Systems", SIGMOD 1984; docs/adr/0009). Each write has its own revision, audit entry and response.

A write has two parts (`Transaction`): until `last` it only reads and locks. In a group all first parts come before all
second parts, so that no write waits for a row lock while the revision is locked. A write that fails in its first part
leaves the group; when one fails in its second part, the group is rolled back and each of its writes runs alone. One
that needs a row that another transaction has locked leaves the group, too, and waits outside of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from services.chassis.errors import ModelyardError
from services.ledger.model.calls import Write, check_reached
from services.ledger.store.database import Database
from services.ledger.store.database_errors import Conflict, LockTimeout
from services.ledger.store.group_commit import (
    CLAIMED,
    NEWEST_REVISION,
    GroupCommit,
    LockHeld,
    WriteFailed,
    WriteJob,
    WriteResult,
    earlier_result,
    fail_jobs,
)
from services.ledger.store.retries import Cause
from services.ledger.store.transactions import Work

T = TypeVar("T")

_ATTEMPTS = 4
_MAX_GROUP = 64
# While one group waits for the disk, the next one reads and locks.
_IN_FLIGHT = 2
_LAST_SECONDS = 2.0
# A group waits only briefly for a lock of another transaction: its other writes would wait, too, and so would all that
# need their locks. The write that needs the lock then waits longer, outside of the group: longer than the timeout after
# which the database ends the transaction of a stopped process.
_LOCK_WAIT, _LEAST_LOCK_WAIT = 0.1, 0.01
_LONGEST_LOCK_WAIT = 10.0


class Writer:
    """
    Runs write transactions.

    Args:
        database: the database.
        most_together: maximum number of writes per group.
        in_flight: maximum number of concurrent groups, each with a connection.
        lock_wait: seconds that a group waits for a lock of another transaction.
        longest_lock_wait: seconds that one write waits for it, before it fails.
        channel: the NOTIFY channel of the change stream, notified after each commit; empty to let a trigger do it.
    """

    def __init__(
        self,
        database: Database,
        most_together: int = _MAX_GROUP,
        in_flight: int = _IN_FLIGHT,
        *,
        lock_wait: float = _LOCK_WAIT,
        longest_lock_wait: float = _LONGEST_LOCK_WAIT,
        channel: str = "",
    ) -> None:
        self._database, self._most_together = database, most_together
        self._lock_wait, self._longest_lock_wait = lock_wait, longest_lock_wait
        self._channel = channel
        # Waiting writes must not occupy every connection.
        self._aside = asyncio.Semaphore(max(1, database.primary.pool.most // 4))
        self._waiting: list[WriteJob[Any]] = []
        self._touched: set[str] = set()
        self._free = in_flight
        self._groups: set[asyncio.Task[None]] = set()

    async def run(
        self, write: Write, work: Work[T], encode: Callable[[T], bytes], touches: Sequence[object] | None
    ) -> WriteResult[T]:
        """
        Run a write exactly once, however often it is sent.

        Args:
            work: reads, checks and writes in the given transaction; it may be called again.
            encode: serializes the response, which is stored for retries.
            touches: the resources whose rows *work* locks, so that it can be grouped with others that touch none of
                them; None if it cannot be grouped.

        Raises:
            AlreadyExists: the request id was used for another request (REQUEST_ID_REUSED).
            FailedPrecondition: the caller has seen a revision that does not exist (REVISION_NOT_REACHED).
            Aborted: other writes got in the way several times (TRANSACTION_CONFLICT).
            LockTimeout: another transaction holds a lock that it needs.
        """
        names = None if touches is None or write.dry else frozenset(map(str, touches))
        job = WriteJob(write, work, encode, names, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._start()
        try:
            return await job.done
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def earlier(self, write: Write) -> WriteResult[Any] | None:
        """
        The result of an earlier attempt with the same request id; None if there is none.

        Raises:
            AlreadyExists: the request id was used for another request (REQUEST_ID_REUSED).
            FailedPrecondition: the caller has seen a revision that does not exist (REVISION_NOT_REACHED).
        """
        await self.check_reached(write.least)
        if not write.request_id:
            return None
        rows = await self._database.fetch(CLAIMED, write.actor, write.request_id)
        return earlier_result(write, rows[0]) if rows and rows[0]["fresh"] else None

    async def check_reached(self, least: int) -> None:
        """
        Args:
            least: the revision that a caller has seen; 0 when it does not say.

        Raises:
            FailedPrecondition: there is no such revision (REVISION_NOT_REACHED).
        """
        if least:
            check_reached(least, (await self._database.fetch_row(NEWEST_REVISION))["value"])

    async def close(self) -> None:
        """
        Wait for the writes in flight before the connections are closed.
        """
        if self._groups:
            await asyncio.wait(self._groups, timeout=_LAST_SECONDS)

    def _start(self) -> None:
        while self._free and (group := self._take()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run_next(group))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    def _take(self) -> list[WriteJob[Any]]:
        """
        The next group: in order of arrival, writes that share no resource with a write in flight.
        """
        group: list[WriteJob[Any]] = []
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
            # Later writes must not overtake it on the same resource.
            touched |= job.keys
        for job in group:
            self._waiting.remove(job)
            self._touched |= job.keys
        # A fixed lock order prevents deadlocks between processes that lock the same rows.
        return sorted(group, key=lambda job: job.place)

    async def _run_next(self, group: list[WriteJob[Any]]) -> None:
        try:
            for job in await self._run_group(group):
                if (held := await self._run_alone(job, self._lock_wait)) is not None:
                    self._set_aside(job, held)
        except BaseException as error:
            _fail_or_cancel([job for job in group if not job.aside], error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._release([job for job in group if not job.aside])
            self._free += 1
            self._start()

    async def _run_group(self, group: list[WriteJob[Any]]) -> list[WriteJob[Any]]:
        """
        Run the writes of a group, without those that need a lock of another transaction: these wait outside of it.

        Returns:
            Those that must be run alone.
        """
        alone: list[WriteJob[Any]] = []
        parts, wait = [group], self._lock_wait
        while parts:
            part = [job for job in parts.pop() if not job.done.done()]
            outcome = await self._attempt(part, wait) if part else None
            if not isinstance(outcome, LockHeld):
                alone += part if outcome is not None else []
                continue
            self._retry(Cause.LOCK, part, outcome)
            if len(part) == 1:
                self._set_aside(part[0], outcome)
            elif outcome.job is None:
                # The lock is on one of their request ids. Splitting the group in halves finds which.
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                self._set_aside(outcome.job, outcome)
                parts.append([job for job in part if job is not outcome.job])
            # The others have waited already, and there may be more such locks.
            wait = max(wait / 2, _LEAST_LOCK_WAIT)
        return alone

    async def _run_alone(self, job: WriteJob[Any], wait: float) -> LockHeld | None:
        """
        Run a write in a transaction of its own.

        Returns:
            The lock that it could not get, if any.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if job.done.done():
                return None
            outcome = await self._attempt([job], wait, final=attempt == _ATTEMPTS)
            if outcome is None or isinstance(outcome, LockHeld):
                return outcome
            await asyncio.sleep(0.01 * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        return None

    def _set_aside(self, job: WriteJob[Any], held: LockHeld) -> None:
        """
        Let a write wait for a lock without blocking other writes. Later writes to the same resource wait for it.
        """
        job.aside = True
        task = asyncio.get_running_loop().create_task(self._wait_aside(job, held))
        self._groups.add(task)
        task.add_done_callback(self._groups.discard)

    async def _wait_aside(self, job: WriteJob[Any], held: LockHeld) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        until = began + self._longest_lock_wait
        still: LockHeld | None = held
        try:
            try:
                async with asyncio.timeout_at(until):
                    await self._aside.acquire()
            except TimeoutError:
                pass
            else:
                try:
                    still = await self._run_alone(job, max(until - loop.time(), _LEAST_LOCK_WAIT))
                finally:
                    self._aside.release()
            if still is not None:
                names = ", ".join(sorted(job.touches or ()))
                lock = f"{still.lock}, for {names}" if names else still.lock
                fail_jobs([job], LockTimeout(lock, loop.time() - began))
        except BaseException as error:
            _fail_or_cancel([job], error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._release([job])
            self._start()

    def _release(self, jobs: Sequence[WriteJob[Any]]) -> None:
        for job in jobs:
            self._touched -= job.keys

    def _retry(self, cause: Cause, jobs: Sequence[WriteJob[Any]], why: object) -> None:
        self._database.retries.count(cause, len(jobs), why)

    async def _attempt(
        self, group: list[WriteJob[Any]], wait: float, *, final: bool = False
    ) -> Conflict | WriteFailed | LockHeld | None:
        """
        Run the writes of a group in one transaction and set the result of each.

        Args:
            wait: seconds for a lock.

        Returns:
            Why the writes without a result must be retried; None if all have one.
        """
        commit = GroupCommit(self._database.primary, group, wait, self._channel)
        try:
            await commit.run()
        except LockHeld as held:
            return held
        except ModelyardError as error:
            left = [job for job in group if not job.done.done()]
            if isinstance(error, Conflict) and not final:
                self._retry(Cause.CONFLICT, left, error.__cause__ or error)
                return error
            fail_jobs(left, error)
        except WriteFailed as failed:
            left = [job for job in group if not job.done.done()]
            conflict = isinstance(failed.error, Conflict)
            if len(group) > 1 or (conflict and not final):
                self._retry(Cause.CONFLICT if conflict else Cause.FAILURE, left, type(failed.error).__name__)
                return failed
            fail_jobs(left, failed.error)
        return None


def _fail_or_cancel(jobs: Sequence[WriteJob[Any]], error: BaseException) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error) if isinstance(error, Exception) else job.done.cancel()
