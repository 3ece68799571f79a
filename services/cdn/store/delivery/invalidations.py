"""
The queue of invalidations in the database; `invalidator` carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from services.cdn.model.delivery import Invalidation, InvalidationName, InvalidationState, count_wildcards
from services.ledger.model.calls import Missing
from services.ledger.model.changes import Journal
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last

_GET = Statement("invalidations.get", "SELECT id, state, paths, create_time, failure FROM invalidations WHERE id = $1")

_QUEUE = last(
    "invalidations.queue",
    """
, made AS (
    INSERT INTO invalidations (id, state, paths, wildcards, create_time)
    SELECT $10, 'QUEUED', $11::text[], $12, clock_timestamp() FROM next
    RETURNING id, state, paths, create_time, failure
)
SELECT next.value AS written, made.* FROM next, made
""",
)

_FORGET = Statement(
    "invalidations.forget",
    """
DELETE FROM invalidations
 WHERE id IN (SELECT id FROM invalidations WHERE finish_time < now() - $1::interval ORDER BY finish_time LIMIT 10000)
""",
)

#: Number of paths in an audit entry.
_AUDITED = 100


class InvalidationStore:
    """
    Queues invalidations and reads their state.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: InvalidationName) -> Invalidation:
        """
        Raises:
            Missing: there is no such invalidation, or it was purged.
        """
        rows = await self._database.fetch(_GET, name.id)
        if not rows:
            raise Missing("INVALIDATION_NOT_FOUND", name)
        return _invalidation(rows[0])

    async def queue(self, transaction: Transaction, paths: Sequence[str]) -> Invalidation:
        """
        Queue an invalidation of *paths*.
        """
        name = InvalidationName(uuid4())
        # Bounds the size of the audit entry.
        journal = Journal.created(name, {"paths": list(paths[:_AUDITED]), "path_count": len(paths)})
        rows = await transaction.last(_QUEUE, journal, name.id, paths, count_wildcards(paths))
        return _invalidation(rows[0])

    async def forget(self, age: timedelta) -> None:
        """
        Purge invalidations that ended longer than *age* ago, a bounded number per call.
        """
        await self._database.fetch(_FORGET, age)


def _invalidation(row: Row) -> Invalidation:
    return Invalidation(
        InvalidationName(row["id"]),
        InvalidationState(row["state"]),
        tuple(row["paths"]),
        row["create_time"],
        row["failure"],
    )
