"""
Write transactions: one revision each, with its changes, its audit and its answer.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from services.chassis.errors import AlreadyExists, ModelyardError
from services.registry.model.calls import Write
from services.registry.model.changes import Image, Journal
from services.registry.store.database import Database, Row
from services.registry.store.pool import Connection
from services.registry.store.trouble import CONFLICTS

T = TypeVar("T")

_ATTEMPTS = 4

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

_CLAIM = """
INSERT INTO requests (actor, request_id, action, digest) VALUES ($1, $2, $3, $4)
ON CONFLICT (actor, request_id) DO UPDATE
   SET action = excluded.action, digest = excluded.digest, revision = NULL, answer = NULL, create_time = now()
 WHERE requests.create_time < now() - interval '24 hours'
RETURNING true
"""

_CLAIMED = "SELECT action, digest, revision, answer FROM requests WHERE actor = $1 AND request_id = $2"

_ANSWER = "UPDATE requests SET revision = $3, answer = $4 WHERE actor = $1 AND request_id = $2"


def last(sql: str) -> str:
    """
    The last statement of a write.

    Args:
        sql: what it stores, as common table expressions that take the revision from `next`, then a SELECT. It starts
            with a comma or with SELECT. Its own parameters begin at $10.
    """
    return _LAST + sql


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
    The statements of one write. `last` comes last.
    """

    def __init__(self, connection: Connection, write: Write) -> None:
        self._connection = connection
        self.write = write
        self.revision = 0

    async def row(self, sql: str, *args: Any) -> Row | None:
        """
        The first row of a statement, if there is one.
        """
        return await self._connection.fetchrow(sql, *args)

    async def rows(self, sql: str, *args: Any) -> list[Row]:
        """
        The rows of a statement.
        """
        return await self._connection.fetch(sql, *args)

    async def last(self, sql: str, journal: Journal, *args: Any) -> list[Row]:
        """
        Take the revision and write everything.

        Args:
            sql: made by `last`; its rows have a column `written`, the revision.
            args: its own parameters, from $10 on.
        """
        write = self.write
        rows = await self._connection.fetch(
            sql,
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
        self.revision = await self._connection.fetchval("SELECT value FROM revision")


class _DryRun(Exception):  # noqa: N818 - not an error: it makes the transaction roll back
    """
    Everything went well and nothing is to stay.
    """


class Writer:
    """
    Runs write transactions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(
        self, write: Write, work: Callable[[Transaction], Awaitable[T]], encode: Callable[[T], bytes]
    ) -> Done[T]:
        """
        Do a write once, however often it is sent.

        Args:
            work: reads, checks and writes in the transaction that it is given; it may be called again.
            encode: the answer, to be kept for retries.

        Raises:
            AlreadyExists: the request id was used for another request (REQUEST_ID_REUSED).
            Aborted: other writes got in the way several times.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._attempt(write, work, encode)
            except ModelyardError as error:
                if attempt == _ATTEMPTS or not isinstance(error.__cause__, CONFLICTS):
                    raise
                await asyncio.sleep(0.01 * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, write: Write, work: Callable[[Transaction], Awaitable[T]], encode: Callable[[T], bytes]
    ) -> Done[T]:
        try:
            async with self._database.connection() as connection, connection.transaction():
                if write.request_id and not write.dry and (earlier := await _claim(connection, write)) is not None:
                    return earlier
                transaction = Transaction(connection, write)
                value = await work(transaction)
                done = Done(value, None, transaction.revision)
                if write.dry:
                    raise _DryRun
                if write.request_id:
                    # The one thing that follows the revision: the answer contains it.
                    await connection.execute(_ANSWER, write.actor, write.request_id, done.revision, encode(value))
        except _DryRun:
            return Done(done.value, None, done.revision - 1)
        return done


async def _claim(connection: Connection, write: Write) -> Done[Any] | None:
    """
    Claim a request id, or find the answer that it was given. Waits for another call with the same id to end.
    """
    if await connection.fetchval(_CLAIM, write.actor, write.request_id, write.action, write.digest):
        return None
    row = await connection.fetchrow(_CLAIMED, write.actor, write.request_id)
    if row is None:
        # It expired and was swept between the two statements: next time it will be claimed.
        return await _claim(connection, write)
    if row["action"] != write.action or row["digest"] != write.digest:
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            write.request_id,
            f"request_id {write.request_id} was used for another request",
            metadata={"action": row["action"]},
        )
    return Done(None, row["answer"], row["revision"])


def _json(image: Image | None) -> str | None:
    return None if image is None else json.dumps(image, ensure_ascii=False, separators=(",", ":"))
