"""
Write transactions: the statements that a write may run, and the last one, which assigns the revision and records the
changes and the audit entries.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import asyncpg

from services.ledger.model.calls import Write
from services.ledger.model.changes import Image, Journal
from services.ledger.store.pool import Connection
from services.ledger.store.servers import Row, Server
from services.ledger.store.statements import HEAD, Statement

T = TypeVar("T")

# The head of every write's last statement. `next` is the new revision and the time at which it was assigned; all that
# the write stores uses both, so that timestamps increase with revisions: now() is when the transaction began, which may
# have waited for other transactions since. The revision's row is already locked by a separate statement
# (`LOCK_REVISION` in group_commit.py): PostgreSQL executes the CTEs of a statement in an order that the planner
# chooses, and two writes that lock the revision and a namespace's usage in different orders would deadlock.
_LAST = """
WITH next AS (
    UPDATE revision SET value = value + 1 RETURNING value, clock_timestamp() AS moment
), told AS (
    INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
    SELECT value, moment, $1, $2, $3 FROM next
), audited AS (
    INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, before, after, octets,
                       break_glass)
    SELECT value, ordinal, moment, $4, $5, resource, $6, before::jsonb, after::jsonb,
           coalesce(octet_length(before), 0) + coalesce(octet_length(after), 0), false
      FROM next, unnest($7::text[], $8::text[], $9::text[]) WITH ORDINALITY AS entry (resource, before, after, ordinal)
)
"""

_HEAD = Statement("revision.now", f"SELECT value FROM {HEAD}")  # noqa: S608 - only constants are interpolated


def last(name: str, sql: str) -> Statement:
    """
    The last statement of a write.

    Args:
        name: see `Statement`.
        sql: what it stores, as common table expressions that take the revision and the time from `next`, then a SELECT.
            It starts with a comma or with SELECT. Its own parameters begin at $10.
    """
    return Statement(name, _LAST + sql)


class Transaction:
    """
    The statements of one write: any number of `row` and `rows`, which only read and lock, then `last` or `nothing`.
    (`copy` fills a temporary table of the connection.)

    Args:
        wait_turn: waits until the write may use the revision; True takes it.
    """

    def __init__(
        self, server: Server, connection: Connection, write: Write, wait_turn: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._server = server
        self._connection = connection
        self._wait_turn = wait_turn
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

    async def copy(self, name: str, table: str, records: Sequence[Sequence[Any]]) -> None:
        """
        COPY rows into a temporary table, for a write that is not grouped.

        Args:
            name: of the statement in metrics and logs.
            records: with a value for every column.
        """
        statement = Statement(name, f"COPY {table} FROM STDIN")

        async def copying(connection: Connection, _sql: str) -> None:
            await connection.copy_records_to_table(table, records=records)

        await self._server.on(self._connection, copying, statement, ())

    async def last(self, statement: Statement, journal: Journal, *args: Any) -> list[Row]:
        """
        Assign the revision and write everything.

        Args:
            statement: made by `last`; its rows have a column `written`, the revision.
            args: its own parameters, from $10 on.
        """
        await self._wait_turn(True)
        if not self._connection.is_in_transaction():
            # Outside a transaction the statement would autocommit without the request id that makes it idempotent.
            raise RuntimeError("the transaction has ended before its last statement")
        self.wrote = True
        write = self.write
        rows = await self.rows(
            _marked(statement) if write.break_glass else statement,
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

    def break_glass(self) -> None:
        """
        Record in the audit log that only the caller's scope `admin` allows this write.
        """
        self.write = replace(self.write, break_glass=True)

    async def nothing(self) -> None:
        """
        Call in place of `last` when there is nothing to write: the response reflects the newest revision.
        """
        await self._wait_turn(False)
        row = await self.row(_HEAD)
        assert row is not None  # noqa: S101 - for the type checker: there is always one
        self.revision = row["value"]


Work = Callable[[Transaction], Awaitable[T]]


def _marked(statement: Statement) -> Statement:
    """
    The last statement of a write that only the scope `admin` allows. It is rare: a parameter would be for all others.
    """
    head = _LAST.replace("0), false\n", "0), true\n")
    return Statement(statement.name, head + statement.sql.removeprefix(_LAST), statement.anywhere)


def _json(image: Image | None) -> str | None:
    return None if image is None else json.dumps(image, ensure_ascii=False, separators=(",", ":"))
