# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
The log of changes in the database, one row for each revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from services.ledger.model.changes import Change, ChangeKind, Revision
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement

# The epoch distinguishes this timeline of the database from others with the same revisions (docs/adr/0037). A promoted
# standby continues in another timeline; a started copy of the files, or any other server that replaces this one,
# has another time of start; another database of the same server has another oid; and what was restored into the same
# database has another id, by `--restored`.
_EPOCH = """
(SELECT left(encode(sha256(convert_to(concat_ws('/', epoch.id,
               (SELECT oid FROM pg_database WHERE datname = current_database()),
               CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
               extract(epoch FROM pg_postmaster_start_time())), 'UTF8')), 'hex'), 16)
   FROM epoch) AS epoch
"""

# At most 256 revisions per read, and not many more than 10,000 changes: a bulk write has thousands.
_AFTER = Statement(
    "changes.after",
    f"""
SELECT revision.value AS head, (SELECT min(changes.revision) FROM changes) AS oldest, {_EPOCH}, told.*
  FROM {HEAD}
  LEFT JOIN LATERAL (
       SELECT * FROM (
              SELECT next.*, sum(size) OVER (ORDER BY next.revision) - size AS size_before
                FROM (SELECT * FROM changes WHERE changes.revision > $1 ORDER BY changes.revision LIMIT 256) AS next
              ) AS counted
        WHERE size_before < 10000
       ) AS told ON true
 ORDER BY told.revision
""",
)

_END = Statement(
    "changes.end", f"SELECT value AS head, (SELECT min(changes.revision) FROM changes) AS oldest, {_EPOCH} FROM {HEAD}"
)

_AT_ONCE = 10_000
# Batches per run: a million rows are enough, and the next run follows soon.
_MOST_TIMES = 100

# Examines only the oldest rows, expired or not, so that it never scans the whole log when none has expired. The newest
# row is never deleted, so that the log always records where it begins.
_TRIM = Statement(
    "changes.trim",
    f"""
WITH removed AS (
    DELETE FROM changes WHERE revision = ANY (ARRAY(
        SELECT revision FROM (SELECT revision, commit_time FROM changes ORDER BY revision LIMIT {_AT_ONCE}) AS oldest
         WHERE commit_time < now() - $1::interval AND revision < (SELECT value FROM {HEAD})
         ORDER BY revision))
    RETURNING 1
)
SELECT count(*) AS count FROM removed
""",
)

# Checks the age again on the locked row: it may have been reclaimed while this statement waited for the lock. Rows that
# are locked, by a claim or by another sweeper, are skipped.
_FORGET = Statement(
    "requests.forget",
    f"""
WITH removed AS (
    DELETE FROM requests
     WHERE create_time < now() - interval '24 hours' AND (actor, request_id) IN (
           SELECT actor, request_id FROM requests WHERE create_time < now() - interval '24 hours'
            ORDER BY create_time LIMIT {_AT_ONCE} FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS count FROM removed
""",
)


# Audit partitions are created this many months ahead, so that no single run of the sweeper is critical.
_AHEAD = 12
_MAKE_MONTHS = Statement("audit.make_months", f"SELECT make_audit_partitions({_AHEAD}) AS count")


@dataclass(frozen=True, slots=True)
class Tail:
    """
    A part of the log.

    Args:
        revisions: in order, without gaps.
        oldest: the oldest revision that the log holds.
        head: the newest committed revision.
        epoch: of the revisions.
    """

    revisions: tuple[Revision, ...]
    oldest: int
    head: int
    epoch: str


class Changelog:
    """
    Reads and trims the log.

    It is read over a dedicated connection: caches serve only as long as they receive changes, and otherwise all reads
    would come here as well, just when calls wait for a connection.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, revision: int) -> Tail:
        """
        The revisions after *revision*, a bounded number of them.
        """
        rows = await self._database.aside.fetch(_AFTER, [revision])
        found = tuple(_revision(row) for row in rows if row["revision"] is not None)
        return Tail(found, rows[0]["oldest"], rows[0]["head"], rows[0]["epoch"])

    async def end(self) -> Tail:
        """
        Where the log ends, without its entries.
        """
        (row,) = await self._database.aside.fetch(_END, ())
        return Tail((), row["oldest"], row["head"], row["epoch"])

    async def trim(self, keep: timedelta) -> int:
        """
        Delete revisions that are older than *keep*; a bounded number of them.

        Returns:
            How many were deleted.
        """
        return await self._repeat(_TRIM, keep)

    async def make_months(self) -> int:
        """
        Create the audit partitions of the coming months.

        Returns:
            How many were created.
        """
        count: int = (await self._database.fetch_row(_MAKE_MONTHS))["count"]
        return count

    async def forget(self) -> int:
        """
        Delete stored responses that are older than a day; a bounded number of them.

        Returns:
            How many were deleted.
        """
        return await self._repeat(_FORGET)

    async def _repeat(self, statement: Statement, *args: Any) -> int:
        total = 0
        for _ in range(_MOST_TIMES):
            count: int = (await self._database.fetch_row(statement, *args))["count"]
            total += count
            if count < _AT_ONCE:
                break
        return total


def _revision(row: Row) -> Revision:
    changes = zip(row["resources"], row["kinds"], row["subtrees"], strict=True)
    return Revision(
        row["revision"],
        row["commit_time"],
        tuple(Change(resource, ChangeKind(kind), subtree) for resource, kind, subtree in changes),
    )
