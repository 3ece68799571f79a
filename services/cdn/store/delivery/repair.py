"""
Repairs static files after an interrupted write, when the bucket may differ from the database.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import uuid4

from services.cdn.model.static_files import StaticName
from services.cdn.store.delivery.static_files import NOW, ORIGINAL, to_original, to_static_file
from services.cdn.store.delivery.static_objects import StaticObjects
from services.cdn.store.objects.s3 import NoSuchKey
from services.cdn.store.transactions import KEEPALIVE, Run, background_transaction, keep_alive
from services.chassis.serving.background import beside, every
from services.ledger.store.database import Database
from services.ledger.store.statements import Statement

_MARKED = Statement(
    "static_repairs.old",
    "SELECT name FROM static_repairs WHERE mark_time <= now() - $1::interval ORDER BY mark_time LIMIT 100",
)
# Does not wait for the lock: its holder is about to complete the write.
_TRY_LOCK = Statement("static_files.try_lock", "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 1)) AS is_locked")
_IS_MARKED = Statement("static_repairs.get", "SELECT 1 FROM static_repairs WHERE name = $1")
_UNMARK = Statement("static_repairs.unmark", "DELETE FROM static_repairs WHERE name = $1")
_LATER = Statement("static_repairs.later", "UPDATE static_repairs SET mark_time = now() WHERE name = $1")
_QUEUE = Statement(
    "static_repairs.queue",
    """
INSERT INTO invalidations (id, state, paths, wildcards, create_time)
VALUES ($1, 'QUEUED', ARRAY[$2::text], 0, clock_timestamp())
""",
)

#: Minimum age: a copy requested by a crashed process may still be in progress in the object store.
_AGE = timedelta(seconds=60)
_EVERY_SECONDS = 30.0

_log = logging.getLogger(__name__)


class StaticFileRepairer:
    """
    Restores the objects of static files from their rows.

    Args:
        database: with the rows.
        objects: writes the objects.
        has_edge: whether to invalidate the path at a CDN distribution.
    """

    def __init__(self, database: Database, objects: StaticObjects, *, has_edge: bool) -> None:
        self._database, self._objects, self._has_edge = database, objects, has_edge

    async def repair(self, age: timedelta = _AGE) -> int:
        """
        Repair writes that began longer than *age* ago and did not complete.

        Returns:
            Number of repaired static files.
        """
        rows = await self._database.fetch(_MARKED, age)
        repaired = 0
        for row in rows:
            try:
                repaired += await self._repair(StaticName.parse(row["name"]))
            except NoSuchKey:
                # Moved to the end of the queue, so that it does not block the others.
                _log.error("cannot repair %s: the bytes of its asset are not in the bucket", row["name"])
                await self._database.fetch(_LATER, row["name"])
        if repaired:
            _log.info("repaired %d static files after interrupted writes", repaired)
        return repaired

    async def _repair(self, name: StaticName) -> bool:
        async with background_transaction(self._database) as run:
            if not (await run(_TRY_LOCK, str(name)))[0]["is_locked"] or not await run(_IS_MARKED, str(name)):
                return False
            async with keep_alive(partial(run, KEEPALIVE)):
                await self._write(name, run)
            await run(_UNMARK, str(name))
            if self._has_edge:
                await run(_QUEUE, uuid4(), name.url_path)
        return True

    async def _write(self, name: StaticName, run: Run) -> None:
        rows = await run(NOW, str(name))
        if not rows:
            await self._objects.remove(name)
            return
        found = to_static_file(name, rows[0])
        originals = await run(ORIGINAL, found.draft.sha256)
        if not originals:
            raise NoSuchKey(found.draft.sha256)
        await self._objects.write(name, found.draft, to_original(originals[0]))


@asynccontextmanager
async def repairing(repairer: StaticFileRepairer) -> AsyncIterator[None]:
    """
    Repair static files periodically while the block lasts.
    """
    async with beside(every(_EVERY_SECONDS, repairer.repair, "repair static files")):
        yield
