"""
One transaction for a group of writes (docs/adr/0009): their request ids, their two parts, their responses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import asyncpg

from services.chassis.errors import AlreadyExists, ModelyardError
from services.ledger.model.calls import Write, check_reached
from services.ledger.store.database_errors import LockTimeout, locked_relation, translate_error
from services.ledger.store.pool import Connection
from services.ledger.store.servers import Row, Server
from services.ledger.store.statements import HEAD, Statement
from services.ledger.store.transactions import Transaction, Work

T = TypeVar("T")

# Every write takes its locks in the same order, this one in a separate statement, which no plan can reorder.
LOCK_REVISION = "SELECT value FROM revision FOR NO KEY UPDATE"
# Longer than the server lets a stopped process hold the lock (idle_in_transaction_session_timeout).
_REVISION_SECONDS = 15.0
# While the revision is locked all other writers wait, so that no statement may wait for another lock for long.
_HOLDING_SECONDS = 0.1

_log = logging.getLogger(__name__)

_COMMIT = Statement("write.commit", "COMMIT")
_ROLLBACK = Statement("write.rollback", "ROLLBACK")

_CLAIM = Statement(
    "requests.claim",
    """
INSERT INTO requests (actor, request_id, action, digest)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS claim (actor, request_id, action, digest)
 ORDER BY actor, request_id
ON CONFLICT (actor, request_id) DO UPDATE
   SET action = excluded.action, digest = excluded.digest, revision = NULL, answer = NULL, create_time = now()
 WHERE requests.create_time < now() - interval '24 hours'
RETURNING actor, request_id
""",
)

CLAIMED = Statement(
    "requests.get",
    """
SELECT action, digest, revision, answer, create_time >= now() - interval '24 hours' AS fresh FROM requests
 WHERE actor = $1 AND request_id = $2
""",
)

NEWEST_REVISION = Statement("revision.newest", f"SELECT value FROM {HEAD}")  # noqa: S608 - only constants are interpolated

_ANSWER = Statement(
    "requests.answer",
    """
WITH dropped AS (
    DELETE FROM requests USING unnest($5::text[], $6::text[]) AS failed (actor, request_id)
     WHERE requests.actor = failed.actor AND requests.request_id = failed.request_id
)
UPDATE requests SET revision = answered.revision, answer = answered.answer
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS answered (actor, request_id, revision, answer)
 WHERE requests.actor = answered.actor AND requests.request_id = answered.request_id
""",
)


@dataclass(frozen=True, slots=True)
class WriteResult(Generic[T]):
    """
    The result of a write, from this attempt or an earlier one.

    Args:
        value: what was written; None for a retry.
        answer: the first answer, for a retry.
        revision: of the write. A dry one has none and reflects the one before.
    """

    value: T | None
    answer: bytes | None
    revision: int


@dataclass(eq=False, slots=True)
class WriteJob(Generic[T]):
    """
    A queued write.

    Args:
        touches: the resources that it locks; None: it cannot be grouped.
        aside: whether it waits for a lock outside of its group.
    """

    write: Write
    work: Work[T]
    encode: Callable[[T], bytes]
    touches: frozenset[str] | None
    done: asyncio.Future[WriteResult[T]]
    aside: bool = False

    @property
    def claims(self) -> bool:
        return bool(self.write.request_id) and not self.write.dry

    @property
    def keys(self) -> frozenset[str]:
        """
        Keys that no other write in flight may have: the resources that it locks, and its request id.
        """
        own = {f"{self.write.actor}\0{self.write.request_id}"} if self.claims else set()
        return frozenset((self.touches or frozenset()) | own)

    @property
    def place(self) -> str:
        """
        Its sort key in the group: the model that it locks ("…/models/m" sorts behind
        "…/deployments/d").
        """
        return max(self.touches or ("",))


class LockHeld(Exception):  # noqa: N818 - internal control flow, never reported to a caller
    """
    Another transaction held a lock for longer than the group waits; nothing was written.

    Args:
        job: the write that needs the lock; None when any write of the group may need it.
        lock: what is locked.
    """

    def __init__(self, job: WriteJob[Any] | None, lock: str) -> None:
        super().__init__(f"{lock} is locked by another transaction")
        self.job, self.lock = job, lock


class WriteFailed(Exception):  # noqa: N818 - says where an error happened, and carries it
    """
    A write of a group failed in its second part: *error* is why.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


class GroupCommit:
    """
    One transaction for a group.

    Args:
        wait: seconds that it waits for a lock, before it takes the revision.
        channel: the NOTIFY channel of the change feed; empty if a trigger notifies it.
    """

    def __init__(self, server: Server, group: list[WriteJob[Any]], wait: float, channel: str = "") -> None:
        self._server = server
        self._group = group
        self._wait = wait
        self._channel = channel
        self._failed: list[tuple[WriteJob[Any], BaseException]] = []
        self._claimed: set[WriteJob[Any]] = set()
        self._wrote = False
        self._dones: list[tuple[WriteJob[Any], WriteResult[Any]]] = []
        self._answers: list[tuple[WriteJob[Any], int, bytes]] = []

    async def run(self) -> None:
        """
        Raises:
            ModelyardError: the database's, for all of them.
            WriteFailed: the error of one of them: nothing was written.
            LockHeld: one of them needs a lock that another transaction holds: nothing was written.
        """
        ended = False
        try:
            async with self._server.connection() as connection:
                self._connection = connection
                await self._transact()
                ended = True
                self._resolve_callers()
                if self._wrote:
                    await self._notify_watchers()
        except Exception:
            # The group is committed; watchers also poll.
            if not ended:
                raise
            _log.info(
                "could not notify the watchers of changes: they will see the changes at their next poll", exc_info=True
            )

    async def _transact(self) -> None:
        # One message: the settings cost no round trip, and end with the transaction.
        later = "; SET LOCAL modelyard.tells = 'later'" if self._channel else ""
        await self._execute(Statement("write.begin", f"BEGIN; {_lock_timeout(self._wait)}{later}"))
        try:
            await self._work()
        except BaseException:
            if not self._connection.is_closed():
                await self._execute(_ROLLBACK)
            raise
        # A dry run leaves nothing, and a group in which nothing was written has nothing to commit.
        dry = any(job.write.dry for job in self._group)
        await self._execute(_ROLLBACK if dry else _COMMIT)
        self._wrote &= not dry

    def _resolve_callers(self) -> None:
        for job, error in self._failed:
            fail_jobs([job], error)
        for job, done in self._dones:
            if not job.done.done():
                job.done.set_result(done)

    async def _notify_watchers(self) -> None:
        """
        Notify in a separate transaction: a commit with NOTIFY takes a server-wide lock, which must not be held while
        waiting for the disk.
        """
        if self._channel:
            notify = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {self._channel}; COMMIT"
            await self._execute(Statement("changes.notify", notify))

    async def _work(self) -> None:
        members: list[GroupedWrite] = []
        try:
            wanted = await self._check_min_revisions([job for job in self._group if not job.done.done()])
            with _raise_lock_held(None):
                claimed = await self._claim(wanted)
            for job in claimed:
                members.append(GroupedWrite(self._server, self._connection, job))
                with _raise_lock_held(job):
                    error = await members[-1].prepare()
                if error is not None:
                    members.pop()
                    self._failed.append((job, error))
            self._wrote = any(member.writes for member in members)
            if self._wrote:
                await self._lock_revision()
            for member in members:
                with _raise_lock_held(member.job):
                    done = await member.finish()
                self._dones.append((member.job, done))
                if member.job.claims:
                    self._answers.append((member.job, done.revision, member.answer))
        finally:
            for member in members:
                member.cancel()
        await self._answer()

    async def _lock_revision(self) -> None:
        """
        Lock the revision: from here until the commit no other transaction writes.

        Raises:
            LockTimeout: another transaction has held it for too long.
        """
        until, then = _lock_timeout(_REVISION_SECONDS), _lock_timeout(_HOLDING_SECONDS)
        try:
            await self._execute(Statement("revision.take", f"{until}; {LOCK_REVISION}; {then}"))
        except asyncpg.LockNotAvailableError as error:
            # The lock of the revision belongs to no single write: the whole group waits for it.
            raise LockTimeout("the revision", _REVISION_SECONDS) from error

    async def _check_min_revisions(self, group: list[WriteJob[Any]]) -> list[WriteJob[Any]]:
        """
        The writes whose minimum revision has been reached. Revisions only grow, so that one check for the whole group,
        before anything is locked, is enough.
        """
        if not any(job.write.least for job in group):
            return group
        newest: int = (await self._fetch(NEWEST_REVISION))[0]["value"]
        found = []
        for job in group:
            try:
                check_reached(job.write.least, newest)
            except ModelyardError as error:
                self._failed.append((job, error))
            else:
                found.append(job)
        return found

    async def _claim(self, group: list[WriteJob[Any]]) -> list[WriteJob[Any]]:
        """
        Claim the request ids, or find the stored responses. Waits for a concurrent call with the same id.

        Returns:
            The writes to run.
        """
        claims = [job.write for job in group if job.claims]
        if not claims:
            return group
        columns = [[getattr(write, name) for write in claims] for name in ("actor", "request_id", "action", "digest")]
        rows: list[Row] = await self._fetch(_CLAIM, *columns)
        claimed = {(row["actor"], row["request_id"]) for row in rows}
        found = [
            job
            for job in group
            if not job.claims or (job.write.actor, job.write.request_id) in claimed or await self._must_run(job)
        ]
        self._claimed.update(job for job in found if job.claims)
        return found

    async def _must_run(self, job: WriteJob[Any]) -> bool:
        """
        Whether a write with a known request id must run after all; if not, its earlier result is recorded.
        """
        write = job.write
        while not (rows := await self._fetch(CLAIMED, write.actor, write.request_id)):
            # It expired and was swept between the two statements: now it can be claimed.
            if await self._fetch(_CLAIM, [write.actor], [write.request_id], [write.action], [write.digest]):
                return True
        try:
            self._dones.append((job, earlier_result(write, rows[0])))
        except AlreadyExists as error:
            self._failed.append((job, error))
        return False

    async def _answer(self) -> None:
        # The only statement after the revision: the response contains it.
        answered = self._answers
        # A failed write releases its request id, so that it may be retried.
        failed = [job.write for job, _ in self._failed if job in self._claimed]
        if not answered and not failed:
            return
        await self._fetch(
            _ANSWER,
            [job.write.actor for job, _, _ in answered],
            [job.write.request_id for job, _, _ in answered],
            [revision for _, revision, _ in answered],
            [answer for _, _, answer in answered],
            [write.actor for write in failed],
            [write.request_id for write in failed],
        )

    async def _fetch(self, statement: Statement, *args: Any) -> list[Row]:
        rows: list[Row] = await self._server.on(self._connection, asyncpg.Connection.fetch, statement, args)
        return rows

    async def _execute(self, statement: Statement) -> None:
        await self._server.on(self._connection, asyncpg.Connection.execute, statement, ())


class GroupedWrite:
    """
    One write of a group: runs its work up to `Transaction.last`, and the rest once the revision is locked.

    Attributes:
        writes: whether its second part takes a revision.
        answer: the response to store for retries, set when the write is finished.
    """

    def __init__(self, server: Server, connection: Connection, job: WriteJob[Any]) -> None:
        self.job = job
        self.writes = False
        self.answer = b""
        self._parked = asyncio.Event()
        self._go = asyncio.Event()
        self._transaction = Transaction(server, connection, job.write, self._wait_turn)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def prepare(self) -> ModelyardError | None:
        """
        Run the first part.

        Returns:
            The error if the write was rejected.

        Raises:
            Exception: the database's, or a bug: the transaction is lost.
        """
        parked = asyncio.ensure_future(self._parked.wait())
        try:
            await asyncio.wait({parked, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            parked.cancel()
        if self._parked.is_set():
            return None
        try:
            self._task.result()
        except ModelyardError as error:
            return error
        except Exception as error:
            if translate_error(error) is not None:
                raise
            raise WriteFailed(error) from error
        raise AssertionError("a write ends with `last` or `nothing`")

    async def finish(self) -> WriteResult[Any]:
        """
        Run the second part.

        Raises:
            WriteFailed: the write's own error.
            Exception: the database's.
        """
        self._go.set()
        try:
            value = await self._task
            if self.job.claims:
                # An exception in its code fails this write only, as an error in its statements does.
                self.answer = self.job.encode(value)
        except Exception as error:
            if translate_error(error) is not None:
                raise
            raise WriteFailed(error) from error
        transaction = self._transaction
        return WriteResult(value, None, transaction.revision - (transaction.wrote and self.job.write.dry))

    def cancel(self) -> None:
        """
        Cancel it, unless it is done.
        """
        self._task.cancel()

    async def _work(self) -> Any:
        return await self.job.work(self._transaction)

    async def _wait_turn(self, writes: bool) -> None:
        self.writes = writes
        self._parked.set()
        await self._go.wait()


@contextmanager
def _raise_lock_held(job: WriteJob[Any] | None) -> Iterator[None]:
    """
    Convert a lock timeout in the block to `LockHeld`, with the write that waited.
    """
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise LockHeld(job, locked_relation(error)) from error


def _lock_timeout(seconds: float) -> str:
    return f"SET LOCAL lock_timeout = {max(int(seconds * 1000), 1)}"


def fail_jobs(jobs: Sequence[WriteJob[Any]], error: BaseException) -> None:
    """
    Fail writes that are not done yet.
    """
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)


def earlier_result(write: Write, row: Row) -> WriteResult[Any]:
    """
    The stored result of a write with a known request id.

    Args:
        row: of `CLAIMED`.

    Raises:
        AlreadyExists: the id was used for another request (REQUEST_ID_REUSED).
    """
    if row["action"] != write.action or row["digest"] != write.digest:
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            write.request_id,
            f"request_id {write.request_id} was used for another request",
            metadata={"action": row["action"]},
        )
    return WriteResult(None, row["answer"], row["revision"])
