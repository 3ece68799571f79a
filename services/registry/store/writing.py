"""
Write transactions: one revision for each write, with its changes, its audit and its answer.

Writes that come together are committed together: the commit waits for the disk, and nobody else can take a revision
meanwhile, so that one commit for thirty writes is what makes thirty writers fast (group commit; the idea is that of
DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984). Each keeps a revision, an
audit entry and an answer of its own.

A write has two parts. Until `Transaction.last` it only reads and locks; in `last` it takes its revision and writes
everything in one statement. In a group all first parts come before all second parts, so that nobody waits for a row
while a revision is held. A write that fails in its first part leaves the group; when one fails in its second part, the
group is rolled back and each of its writes is done by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import asyncpg

from services.chassis.errors import AlreadyExists, ModelyardError
from services.registry.model.calls import Write
from services.registry.model.changes import Image, Journal
from services.registry.store.database import Database
from services.registry.store.pool import Connection
from services.registry.store.servers import Row, Server
from services.registry.store.statements import Statement
from services.registry.store.trouble import Conflict, translated

T = TypeVar("T")

_ATTEMPTS = 4
_MOST_TOGETHER = 64
# While one group waits for the disk, the next one reads and locks.
_IN_FLIGHT = 2

# The head of every write's last statement. `next` is the revision; whatever the write stores takes it from there.
_LAST = """
WITH next AS (
    UPDATE revision SET value = value + 1 RETURNING value
), told AS (
    INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
    SELECT value, clock_timestamp(), $1, $2, $3 FROM next
), audited AS (
    INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, before, after)
    SELECT value, ordinal, clock_timestamp(), $4, $5, resource, $6, before::jsonb, after::jsonb
      FROM next, unnest($7::text[], $8::text[], $9::text[]) WITH ORDINALITY AS entry (resource, before, after, ordinal)
)
"""

_BEGIN = Statement("write.begin", "BEGIN")
_COMMIT = Statement("write.commit", "COMMIT")
_ROLLBACK = Statement("write.rollback", "ROLLBACK")
_HEAD = Statement("revision.now", "SELECT value FROM revision")

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

_CLAIMED = Statement(
    "requests.get", "SELECT action, digest, revision, answer FROM requests WHERE actor = $1 AND request_id = $2"
)

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


def last(name: str, sql: str) -> Statement:
    """
    The last statement of a write.

    Args:
        name: see `Statement`.
        sql: what it stores, as common table expressions that take the revision from `next`, then a SELECT. It starts
            with a comma or with SELECT. Its own parameters begin at $10.
    """
    return Statement(name, _LAST + sql)


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """
    A write that was done, now or earlier.

    Args:
        value: what was written; None for a retry.
        answer: the first answer, for a retry.
        revision: of the write. A dry one has none and reflects the one before.
    """

    value: T | None
    answer: bytes | None
    revision: int


class Transaction:
    """
    The statements of one write: any number of `row` and `rows`, which only read and lock, then `last` or `nothing`.
    """

    def __init__(
        self, server: Server, connection: Connection, write: Write, turn: Callable[[], Awaitable[None]]
    ) -> None:
        self._server = server
        self._connection = connection
        self._turn = turn
        self.write = write
        self.revision = 0
        self.wrote = False

    async def row(self, statement: Statement, *args: Any) -> Row | None:
        """
        The first row of a statement, if there is one.
        """
        row: Row | None = await self._server.on(self._connection, asyncpg.Connection.fetchrow, statement, args)
        return row

    async def rows(self, statement: Statement, *args: Any) -> list[Row]:
        """
        The rows of a statement.
        """
        rows: list[Row] = await self._server.on(self._connection, asyncpg.Connection.fetch, statement, args)
        return rows

    async def last(self, statement: Statement, journal: Journal, *args: Any) -> list[Row]:
        """
        Take the revision and write everything.

        Args:
            statement: made by `last`; its rows have a column `written`, the revision.
            args: its own parameters, from $10 on.
        """
        await self._turn()
        self.wrote = True
        write = self.write
        rows = await self.rows(
            statement,
            [change.resource for change in journal.changes],
            [int(change.kind) for change in journal.changes],
            [change.subtree for change in journal.changes],
            write.actor,
            write.action,
            write.request_id or write.trace,
            [entry.resource for entry in journal.entries],
            [_json(entry.before) for entry in journal.entries],
            [_json(entry.after) for entry in journal.entries],
            *args,
        )
        self.revision = rows[0]["written"]
        return rows

    async def nothing(self) -> None:
        """
        In place of `last`: there is nothing to write, and the answer reflects the newest revision.
        """
        await self._turn()
        row = await self.row(_HEAD)
        assert row is not None  # noqa: S101 - for the type checker: there is always one
        self.revision = row["value"]


Work = Callable[[Transaction], Awaitable[T]]


@dataclass(eq=False, slots=True)
class _Job(Generic[T]):
    """
    A write that waits for its turn.

    Args:
        touches: the resources that it locks; None means that it goes alone.
    """

    write: Write
    work: Work[T]
    encode: Callable[[T], bytes]
    touches: frozenset[str] | None
    done: asyncio.Future[Done[T]]
    attempts: int = field(default=0)

    @property
    def claims(self) -> bool:
        return bool(self.write.request_id) and not self.write.dry


class _Failed(Exception):  # noqa: N818 - says where an error happened, and carries it
    """
    A write of a group failed in its second part: *error* is why.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Writer:
    """
    Runs write transactions.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Job[Any]] = []
        self._touched: set[str] = set()
        self._free = _IN_FLIGHT
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
        keys: frozenset[str] | None = None
        if touches is not None and not write.dry:
            own = [f"{write.actor}\0{write.request_id}"] if write.request_id else []
            keys = frozenset([*map(str, touches), *own])
        job = _Job(write, work, encode, keys, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._start()
        try:
            return await job.done
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    def _start(self) -> None:
        while self._free and (group := self._take()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._do(group))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    def _take(self) -> list[_Job[Any]]:
        """
        The writes that go together next, in the order in which they came, of those that touch nothing in flight.
        """
        group: list[_Job[Any]] = []
        touched = set(self._touched)
        for job in self._waiting:
            if job.touches is None:
                if not group:
                    group = [job]
                break
            if touched.isdisjoint(job.touches):
                group.append(job)
                if len(group) == _MOST_TOGETHER:
                    break
            # What comes later must not overtake it on the same resource.
            touched |= job.touches
        for job in group:
            self._waiting.remove(job)
            self._touched |= job.touches or frozenset()
        # In one order everywhere: two processes that lock the same rows then never wait for each other.
        return sorted(group, key=lambda job: min(job.touches or ("",)))

    async def _do(self, group: list[_Job[Any]]) -> None:
        alone: list[_Job[Any]] = []
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
                self._touched -= job.touches or frozenset()
            self._free += 1
            self._start()

    async def _do_alone(self, job: _Job[Any]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            if job.done.done():
                return
            if not await self._attempt([job], final=attempt == _ATTEMPTS):
                return
            await asyncio.sleep(0.01 * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret

    async def _attempt(self, group: list[_Job[Any]], *, final: bool = False) -> list[_Job[Any]]:
        """
        Do the writes of a group in one transaction, and tell each how it went.

        Returns:
            Those that have to be done (again), each alone.
        """
        together = _Together(self._database.primary, group)
        try:
            await together.run()
        except ModelyardError as error:
            left = [job for job in group if not job.done.done()]
            if isinstance(error, Conflict) and not final:
                return left
            _fail(left, error)
        except _Failed as failed:
            left = [job for job in group if not job.done.done()]
            if len(group) > 1 or (isinstance(failed.error, Conflict) and not final):
                return left
            _fail(left, failed.error)
        return []


class _Together:
    """
    One transaction for a group.
    """

    def __init__(self, server: Server, group: list[_Job[Any]]) -> None:
        self._server = server
        self._group = group
        self._failed: list[tuple[_Job[Any], BaseException]] = []
        self._dones: list[tuple[_Job[Any], Done[Any]]] = []

    async def run(self) -> None:
        """
        Raises:
            ModelyardError: the database's, for all of them.
            _Failed: the error of one of them: nothing was written.
        """
        async with self._server.connection() as connection:
            self._connection = connection
            await self._execute(_BEGIN)
            try:
                await self._work()
            except BaseException:
                if not connection.is_closed():
                    await self._execute(_ROLLBACK)
                raise
            # A dry run leaves nothing, and a group in which nothing was written has nothing to commit.
            dry = any(job.write.dry for job in self._group)
            await self._execute(_ROLLBACK if dry else _COMMIT)
        for job, error in self._failed:
            _fail([job], error)
        for job, done in self._dones:
            if not job.done.done():
                job.done.set_result(done)

    async def _work(self) -> None:
        turns: list[_Turn] = []
        try:
            for job in await self._claim([job for job in self._group if not job.done.done()]):
                turns.append(_Turn(self._server, self._connection, job))
                if (error := await turns[-1].prepare()) is not None:
                    turns.pop()
                    self._failed.append((job, error))
            for turn in turns:
                self._dones.append((turn.job, await turn.finish()))
        finally:
            for turn in turns:
                turn.cancel()
        await self._answer()

    async def _claim(self, group: list[_Job[Any]]) -> list[_Job[Any]]:
        """
        Claim the request ids, or find the answers that they were given. Waits for another call with the same id.

        Returns:
            The writes that are to be done.
        """
        claims = [job.write for job in group if job.claims]
        if not claims:
            return group
        columns = [[getattr(write, name) for write in claims] for name in ("actor", "request_id", "action", "digest")]
        rows: list[Row] = await self._fetch(_CLAIM, *columns)
        claimed = {(row["actor"], row["request_id"]) for row in rows}
        return [
            job
            for job in group
            if not job.claims or (job.write.actor, job.write.request_id) in claimed or await self._is_fresh(job)
        ]

    async def _is_fresh(self, job: _Job[Any]) -> bool:
        """
        Whether a write whose request id is taken is to be done after all; if not, how it went is noted.
        """
        write = job.write
        while not (rows := await self._fetch(_CLAIMED, write.actor, write.request_id)):
            # It expired and was swept between the two statements: now it can be claimed.
            if await self._fetch(_CLAIM, [write.actor], [write.request_id], [write.action], [write.digest]):
                return True
        if rows[0]["action"] != write.action or rows[0]["digest"] != write.digest:
            self._failed.append((job, _reused(write, rows[0]["action"])))
        else:
            self._dones.append((job, Done(None, rows[0]["answer"], rows[0]["revision"])))
        return False

    async def _answer(self) -> None:
        # The one thing that follows the revision: the answer contains it.
        answered = [(job, done) for job, done in self._dones if job.claims and done.answer is None]
        # A write that failed gives its id back: it may be sent again.
        failed = [job.write for job, error in self._failed if job.claims and not _is_reuse(error)]
        if not answered and not failed:
            return
        await self._fetch(
            _ANSWER,
            [job.write.actor for job, _ in answered],
            [job.write.request_id for job, _ in answered],
            [done.revision for _, done in answered],
            [job.encode(done.value) for job, done in answered],
            [write.actor for write in failed],
            [write.request_id for write in failed],
        )

    async def _fetch(self, statement: Statement, *args: Any) -> list[Row]:
        rows: list[Row] = await self._server.on(self._connection, asyncpg.Connection.fetch, statement, args)
        return rows

    async def _execute(self, statement: Statement) -> None:
        await self._server.on(self._connection, asyncpg.Connection.execute, statement, ())


class _Turn:
    """
    One write of a group: runs its work up to `Transaction.last`, and on when its turn has come.
    """

    def __init__(self, server: Server, connection: Connection, job: _Job[Any]) -> None:
        self.job = job
        self._parked = asyncio.Event()
        self._go = asyncio.Event()
        self._transaction = Transaction(server, connection, job.write, self._turn)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def prepare(self) -> ModelyardError | None:
        """
        Do the first part.

        Returns:
            Why the write is not to be done, if so.

        Raises:
            Exception: the database's, or a mistake of ours: the transaction is lost.
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
            if translated(error) is not None:
                raise
            raise _Failed(error) from error
        raise AssertionError("a write ends with `last` or `nothing`")

    async def finish(self) -> Done[Any]:
        """
        Do the second part.

        Raises:
            _Failed: the write's own error.
            Exception: the database's.
        """
        self._go.set()
        try:
            value = await self._task
        except Exception as error:
            if translated(error) is not None:
                raise
            raise _Failed(error) from error
        transaction = self._transaction
        return Done(value, None, transaction.revision - (transaction.wrote and self.job.write.dry))

    def cancel(self) -> None:
        """
        Give it up, unless it is done.
        """
        self._task.cancel()

    async def _work(self) -> Any:
        return await self.job.work(self._transaction)

    async def _turn(self) -> None:
        self._parked.set()
        await self._go.wait()


def _fail(jobs: Sequence[_Job[Any]], error: BaseException) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)


def _reused(write: Write, action: str) -> AlreadyExists:
    return AlreadyExists(
        "REQUEST_ID_REUSED",
        write.request_id,
        f"request_id {write.request_id} was used for another request",
        metadata={"action": action},
    )


def _is_reuse(error: BaseException) -> bool:
    return isinstance(error, ModelyardError) and error.reason == "REQUEST_ID_REUSED"


def _json(image: Image | None) -> str | None:
    return None if image is None else json.dumps(image, ensure_ascii=False, separators=(",", ":"))
