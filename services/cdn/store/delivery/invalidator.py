"""
Carries invalidations out.

The database says how far each is, so that whoever goes on after a crash knows. Whoever works on a batch has moved its
time ahead, which is the lease: nobody else looks at it before. CloudFront takes the same batch under the same reference
for the same invalidation, so that a batch that is sent twice is one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from services.cdn.model.delivery import InvalidationState
from services.cdn.store.delivery.cloudfront import CloudFront, CloudFrontRejected, CloudFrontUnavailable
from services.cdn.store.delivery.invalidations import InvalidationStore
from services.chassis.serving.background import beside, every
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

# The oldest ones, as many as CloudFront takes at a time: 3,000 paths, 15 of them with a *. (One alone may have more of
# these; CloudFront then says that it is too much for now, and in the end the invalidation fails with that.)
_GATHER = Statement(
    "invalidations.gather",
    """
WITH locked AS MATERIALIZED (
    SELECT id, create_time, cardinality(paths) AS paths, wildcards FROM invalidations
     WHERE state = 'QUEUED' ORDER BY create_time, id LIMIT 200 FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT id, row_number() OVER oldest AS place, sum(paths) OVER oldest AS paths, sum(wildcards) OVER oldest AS stars
      FROM locked WINDOW oldest AS (ORDER BY create_time, id ROWS UNBOUNDED PRECEDING)
), chosen AS (
    SELECT id, first_value(id) OVER (ORDER BY place) AS batch FROM counted
     WHERE place = 1 OR (paths <= 3000 AND stars <= 15)
)
UPDATE invalidations SET state = 'IN_PROGRESS', batch = chosen.batch, due_time = now() + $1::interval
  FROM chosen WHERE invalidations.id = chosen.id
RETURNING invalidations.batch
""",
)

_TAKE = Statement(
    "invalidations.take",
    """
UPDATE invalidations SET due_time = now() + $1::interval
 WHERE id = (SELECT id FROM invalidations WHERE state = 'IN_PROGRESS' AND batch = id AND due_time <= now()
              ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING batch
""",
)

_BATCH = Statement(
    "invalidations.batch",
    """
SELECT id, paths, remote, attempts, now() - create_time AS age FROM invalidations
 WHERE batch = $1 AND state = 'IN_PROGRESS' ORDER BY id <> batch, id
""",
)

_PROGRESS = Statement(
    "invalidations.progress",
    """
UPDATE invalidations SET remote = $2, attempts = $3, due_time = now() + $4::interval
 WHERE id = $1 AND state = 'IN_PROGRESS'
""",
)

_FINISH = Statement(
    "invalidations.finish",
    """
UPDATE invalidations SET state = $2, failure = $3, finish_time = now(), due_time = NULL
 WHERE batch = $1 AND state = 'IN_PROGRESS'
""",
)

#: Longer than any call to CloudFront takes, so that two never work on one batch unless one of them is gone.
_LEASE = timedelta(seconds=60)
#: An invalidation that takes long is asked about less often.
_MOST_POLL_SECONDS = 60.0
_MOST_PAUSE_SECONDS = 60.0
#: How long one that has ended can be looked at.
_KEEP = timedelta(days=30)
_FORGET_EVERY_SECONDS = 3600.0


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InvalidatorLimits:
    """
    How hard CloudFront is asked.

    Args:
        interval: seconds between two invalidations that this process sends; what comes meanwhile goes together.
        poll: seconds until it is asked the first time whether an invalidation is complete.
        attempts: how often in a row it may fail to do what it is asked before an invalidation has failed.
        pause: seconds before it is asked again the first time; doubled each time, up to a minute.
        idle: seconds between two looks for work.
    """

    interval: float = 1.0
    poll: float = 5.0
    attempts: int = 12
    pause: float = 1.0
    idle: float = 1.0


class Invalidator:
    """
    Carries invalidations out.

    Args:
        database: where they are.
        edge: what is to forget.
        pace: how hard it is asked.
    """

    def __init__(self, database: Database, edge: CloudFront, pace: InvalidatorLimits) -> None:
        self._database, self._edge, self._pace = database, edge, pace
        self._next_send = 0.0

    async def work(self) -> bool:
        """
        Go on with one batch.

        Returns:
            Whether there was one.
        """
        rows = await self._database.fetch(_TAKE, _LEASE)
        if not rows and time.monotonic() >= self._next_send:
            rows = await self._database.fetch(_GATHER, _LEASE)
        if not rows:
            return False
        await self._go_on(rows[0]["batch"])
        return True

    async def _go_on(self, batch: UUID) -> None:
        rows = await self._database.fetch(_BATCH, batch)
        if not rows:
            return
        head = rows[0]
        try:
            if head["remote"]:
                await self._ask(batch, head)
            else:
                await self._send(batch, rows)
        except CloudFrontRejected as error:
            await self._fail(batch, str(error))
        except CloudFrontUnavailable as error:
            await self._try_later(batch, head, str(error))

    async def _send(self, batch: UUID, rows: Sequence[Row]) -> None:
        # Retries are sent at this rate, too.
        await asyncio.sleep(max(0.0, self._next_send - time.monotonic()))
        self._next_send = time.monotonic() + self._pace.interval
        # In one order, whoever sends it: under one reference CloudFront takes one list of paths only.
        paths = sorted({path for row in rows for path in row["paths"]})
        remote = await self._edge.invalidate(str(batch), paths)
        _log.info("invalidation %s of %d paths is under way as %s", batch, len(paths), remote)
        await self._progress(batch, remote, 0, self._pace.poll)

    async def _ask(self, batch: UUID, head: Row) -> None:
        if await self._edge.is_done(head["remote"]):
            await self._database.fetch(_FINISH, batch, InvalidationState.COMPLETED.value, "")
            return
        wait = min(max(self._pace.poll, head["age"].total_seconds() / 4), max(self._pace.poll, _MOST_POLL_SECONDS))
        await self._progress(batch, head["remote"], 0, wait)

    async def _try_later(self, batch: UUID, head: Row, why: str) -> None:
        attempts = head["attempts"] + 1
        if attempts >= self._pace.attempts:
            await self._fail(batch, f"{why}, {attempts} times in a row")
            return
        # Exponential backoff with jitter: those who failed together must not come again together.
        pause = min(self._pace.pause * 2 ** (attempts - 1), _MOST_PAUSE_SECONDS)
        _log.info("invalidation %s: %s; trying again", batch, why)
        await self._progress(batch, head["remote"], attempts, pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def _fail(self, batch: UUID, why: str) -> None:
        _log.warning("invalidation %s failed: %s", batch, why)
        await self._database.fetch(_FINISH, batch, InvalidationState.FAILED.value, why)

    async def _progress(self, batch: UUID, remote: str, attempts: int, seconds: float) -> None:
        await self._database.fetch(_PROGRESS, batch, remote, attempts, timedelta(seconds=seconds))


@asynccontextmanager
async def invalidating(database: Database, edge: CloudFront, pace: InvalidatorLimits) -> AsyncIterator[None]:
    """
    Carry invalidations out while the block lasts, and forget those that ended long ago.
    """
    invalidator = Invalidator(database, edge, pace)
    forget = partial(InvalidationStore(database).forget, _KEEP)

    async def work() -> None:
        while await invalidator.work():
            pass

    async with beside(
        every(pace.idle, work, "carry invalidations out"),
        every(_FORGET_EVERY_SECONDS, forget, "forget old invalidations"),
    ):
        yield
