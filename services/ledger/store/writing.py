"""
Write transactions: what a write may do, and the statement that ends it, with the revision, the changes and the audit.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from services.ledger.model.calls import Write
from services.ledger.model.changes import Image, Journal
from services.ledger.store.pool import Connection
from services.ledger.store.servers import Row, Server
from services.ledger.store.statements import HEAD, Statement

T = TypeVar("T")

# The head of every write's last statement. `next` is the revision and the moment in which it was taken; whatever the
# write stores takes them from there, so that times go with revisions: now() is when the transaction began, which may
# have waited for others since. The revision's row is locked already, by a statement of its own (`TAKE` in together.py):
# PostgreSQL runs the parts of this one in whatever order its planner likes, and two writes that lock the revision and a
# namespace's usage in different orders wait for each other.
_LAST = """
WITH next AS (
    UPDATE revision SET value = value + 1 RETURNING value, clock_timestamp() AS moment
), told AS (
    INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
    SELECT value, moment, $1, $2, $3 FROM next
), audited AS (
    INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, before, after, octets)
    SELECT value, ordinal, moment, $4, $5, resource, $6, before::jsonb, after::jsonb,
           coalesce(octet_length(before), 0) + coalesce(octet_length(after), 0)
      FROM next, unnest($7::text[], $8::text[], $9::text[]) WITH ORDINALITY AS entry (resource, before, after, ordinal)
)
"""

_HEAD = Statement("revision.now", f"SELECT value FROM {HEAD}")  # noqa: S608 - SQL of our own


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
    (`copy` fills a table that is the connection's own.)

    Args:
        turn: waits until the revision may be used; True takes it.
    """

    def __init__(
        self, server: Server, connection: Connection, write: Write, turn: Callable[[bool], Awaitable[None]]
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

    async def copy(self, name: str, table: str, records: Sequence[Sequence[Any]]) -> None:
        """
        COPY rows into a temporary table, for a write that goes alone.

        Args:
            name: what it is called in metrics and logs.
            records: with a value for every column.
        """
        statement = Statement(name, f"COPY {table} FROM STDIN")

        async def copying(connection: Connection, _sql: str) -> None:
            await connection.copy_records_to_table(table, records=records)

        await self._server.on(self._connection, copying, statement, ())

    async def last(self, statement: Statement, journal: Journal, *args: Any) -> list[Row]:
        """
        Take the revision and write everything.

        Args:
            statement: made by `last`; its rows have a column `written`, the revision.
            args: its own parameters, from $10 on.
        """
        await self._turn(True)
        if not self._connection.is_in_transaction():
            # Outside it the statement would commit by itself, without the request id that keeps it from being repeated.
            raise RuntimeError("the transaction has ended before its last statement")
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
        await self._turn(False)
        row = await self.row(_HEAD)
        assert row is not None  # noqa: S101 - for the type checker: there is always one
        self.revision = row["value"]


Work = Callable[[Transaction], Awaitable[T]]


def _json(image: Image | None) -> str | None:
    return None if image is None else json.dumps(image, ensure_ascii=False, separators=(",", ":"))
