"""
Sends queued invalidations to CloudFront.

Their progress is in the database, so any process can continue after a crash. A worker holds a lease on its batch by
moving the batch's due time ahead. The caller reference makes sending idempotent: CloudFront treats the same batch under
the same reference as one invalidation.
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

# The oldest ones, up to CloudFront's limits: 3,000 paths, 15 of them with a wildcard. (A single invalidation may have
# more wildcards; CloudFront then throttles it until its attempts are used up and it fails.)
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

#: Longer than any call to CloudFront, so that two workers never share a batch unless one of them has crashed.
_LEASE = timedelta(seconds=60)
#: The longest polling interval; it grows with the age of the invalidation.
_MOST_POLL_SECONDS = 60.0
_MOST_PAUSE_SECONDS = 60.0
#: Retention of finished invalidations.
_KEEP = timedelta(days=30)
_FORGET_EVERY_SECONDS = 3600.0


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InvalidatorLimits:
    """
    Rate limits and retries of calls to CloudFront.

    Args:
        interval: seconds between two invalidations of this process; those queued meanwhile are batched.
        poll: seconds until the first poll of an invalidation's state.
        attempts: consecutive failures after which an invalidation fails.
        pause: seconds before the first retry; doubled each time, up to a minute.
        idle: seconds between two checks of the queue.
    """

    interval: float = 1.0
    poll: float = 5.0
    attempts: int = 12
    pause: float = 1.0
    idle: float = 1.0


class Invalidator:
    """
    Processes the queue of invalidations.

    Args:
        database: with the queue.
        edge: the distribution.
        pace: rate limits and retries.
    """

    def __init__(self, database: Database, edge: CloudFront, pace: InvalidatorLimits) -> None:
        self._database, self._edge, self._pace = database, edge, pace
        self._next_send = 0.0

    async def work(self) -> bool:
        """
        Process one batch.

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
        # Retries are rate-limited, too.
        await asyncio.sleep(max(0.0, self._next_send - time.monotonic()))
        self._next_send = time.monotonic() + self._pace.interval
        # Sorted: a caller reference must always come with the same list of paths.
        paths = sorted({path for row in rows for path in row["paths"]})
        remote = await self._edge.invalidate(str(batch), paths)
        _log.info("invalidation %s of %d paths is in progress as %s", batch, len(paths), remote)
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
        # Exponential backoff with jitter, so that processes do not retry in lockstep.
        pause = min(self._pace.pause * 2 ** (attempts - 1), _MOST_PAUSE_SECONDS)
        _log.info("invalidation %s: %s; will retry", batch, why)
        await self._progress(batch, head["remote"], attempts, pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def _fail(self, batch: UUID, why: str) -> None:
        _log.warning("invalidation %s failed: %s", batch, why)
        await self._database.fetch(_FINISH, batch, InvalidationState.FAILED.value, why)

    async def _progress(self, batch: UUID, remote: str, attempts: int, seconds: float) -> None:
        await self._database.fetch(_PROGRESS, batch, remote, attempts, timedelta(seconds=seconds))


@asynccontextmanager
async def invalidating(database: Database, edge: CloudFront, pace: InvalidatorLimits) -> AsyncIterator[None]:
    """
    Process the queue while the block lasts, and purge old invalidations.
    """
    invalidator = Invalidator(database, edge, pace)
    forget = partial(InvalidationStore(database).forget, _KEEP)

    async def work() -> None:
        while await invalidator.work():
            pass

    async with beside(
        every(pace.idle, work, "process invalidations"),
        every(_FORGET_EVERY_SECONDS, forget, "purge old invalidations"),
    ):
        yield
