"""
The log of changes in the database, one row for each revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.ledger.model.changes import Change, ChangeKind, Revision
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

# At most 256 revisions at a time, and not many more than 10,000 changes: a bulk write has thousands.
_AFTER = Statement(
    "changes.after",
    """
SELECT revision.value AS head, (SELECT min(changes.revision) FROM changes) AS oldest, told.*
  FROM revision
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
    "changes.end", "SELECT value AS head, (SELECT min(changes.revision) FROM changes) AS oldest FROM revision"
)

# The newest one stays, so that the log always says where it begins.
_TRIM = Statement(
    "changes.trim",
    """
DELETE FROM changes WHERE revision = ANY (ARRAY(
    SELECT revision FROM changes
     WHERE commit_time < now() - $1::interval AND revision < (SELECT value FROM revision)
     ORDER BY revision LIMIT 10000))
""",
)

_FORGET = Statement(
    "requests.forget",
    """
DELETE FROM requests WHERE (actor, request_id) IN (
    SELECT actor, request_id FROM requests WHERE create_time < now() - interval '24 hours' LIMIT 10000)
""",
)


@dataclass(frozen=True, slots=True)
class Tail:
    """
    A part of the log.

    Args:
        revisions: in order, without gaps.
        oldest: the oldest revision that the log holds.
        head: the newest committed revision.
    """

    revisions: tuple[Revision, ...]
    oldest: int
    head: int


class Changelog:
    """
    Reads and trims the log.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, revision: int) -> Tail:
        """
        The revisions after one, as many as are sensible to read at once.
        """
        rows = await self._database.fetch(_AFTER, revision)
        found = tuple(_revision(row) for row in rows if row["revision"] is not None)
        return Tail(found, rows[0]["oldest"], rows[0]["head"])

    async def end(self) -> Tail:
        """
        Where the log ends, without what is in it.
        """
        row = await self._database.fetch_row(_END)
        return Tail((), row["oldest"], row["head"])

    async def trim(self, keep: timedelta) -> None:
        """
        Forget revisions that are older than *keep*, and answers to requests that are older than a day; a bounded
        number of each.
        """
        await self._database.fetch(_TRIM, keep)
        await self._database.fetch(_FORGET)


def _revision(row: Row) -> Revision:
    changes = zip(row["resources"], row["kinds"], row["subtrees"], strict=True)
    return Revision(
        row["revision"],
        row["commit_time"],
        tuple(Change(resource, ChangeKind(kind), subtree) for resource, kind, subtree in changes),
    )
