# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Forgets what nobody keeps, in two phases (docs/adr/0015) and in batches (docs/adr/0042).

First an asset that nobody pins is condemned: nobody finds it any more, and its bytes are still there for whoever reads
them at this moment. Later it is marked as being deleted, and only then, under a lock on its row that everybody respects
who would store the same bytes, S3 loses them and the row goes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.cdn.model import Asset, all_keys
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.records import CONDEMN, condemned
from services.cdn.store.rows import ASSET, to_asset
from services.chassis.errors import ModelyardError
from services.chassis.serving.background import begin
from services.ledger.model.calls import Write
from services.ledger.store.database import Database
from services.ledger.store.grouping import Writer
from services.ledger.store.statements import Statement
from services.ledger.store.writing import Transaction

_ACTOR = "modelyard-cdn"
_BATCH = 200
_MOST_NAMES = 1000
# Six keys each, so that one request removes them all.
_DELETED_AT_ONCE = 100
# Comes after every digest: of the second phase nothing is left.
_CONDEMNING = "~"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# The lock on a row ends with its connection, which the server closes after so long without a statement. Nothing is
# deleted that late.
_IDLE_SECONDS, _LOCKED_SECONDS = 60, 20.0

_IDLE = Statement(
    "collection.idle",
    f"""
SELECT {ASSET}, touch_time FROM assets
 WHERE state = 'LIVE' AND touch_time < now() - $1::interval AND (touch_time, sha256) > ($3, $4)
   AND NOT EXISTS (SELECT FROM pins WHERE pins.sha256 = assets.sha256)
 ORDER BY touch_time, sha256 LIMIT $2
""",
)

_IDLE_TOTAL = Statement(
    "collection.idle_total",
    """
SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM assets
 WHERE state = 'LIVE' AND touch_time < now() - $1::interval
   AND NOT EXISTS (SELECT FROM pins WHERE pins.sha256 = assets.sha256)
""",
)

_LOCK = Statement(
    "collection.lock",
    """
SELECT sha256 FROM assets
 WHERE sha256 = ANY($1) AND state = 'LIVE' AND touch_time < now() - $2::interval
 ORDER BY sha256 FOR NO KEY UPDATE
""",
)

# A statement of its own, after the locks: it sees the pins that were added while we waited for them.
_UNPINNED = Statement(
    "collection.unpinned",
    f"""
SELECT {ASSET} FROM assets
 WHERE sha256 = ANY($1) AND NOT EXISTS (SELECT FROM pins WHERE pins.sha256 = assets.sha256)
""",
)

_IS_DUE = """
((state = 'CONDEMNED' AND condemn_time < now() - $1::interval) OR state = 'DELETING'
 OR (state = 'INCOMING' AND touch_time < now() - $2::interval))
"""

_DUE = Statement(
    "collection.due",
    f"SELECT sha256, size_bytes FROM assets WHERE {_IS_DUE} AND sha256 > $4 ORDER BY sha256 LIMIT $3",
)

_DUE_TOTAL = Statement(
    "collection.due_total",
    f"SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM assets WHERE {_IS_DUE}",
)

# Somebody who is deleting some of them at this moment is not waited for.
_DELETING = Statement(
    "collection.deleting",
    f"""
UPDATE assets SET state = 'DELETING'
 WHERE sha256 IN (SELECT sha256 FROM assets WHERE sha256 = ANY($3) AND {_IS_DUE} FOR UPDATE SKIP LOCKED)
RETURNING sha256, size_bytes
""",
)

_HOLD = Statement(
    "collection.hold",
    "SELECT sha256, size_bytes FROM assets WHERE sha256 = ANY($1) AND state = 'DELETING' FOR UPDATE SKIP LOCKED",
)

_GONE = Statement("collection.gone", "DELETE FROM assets WHERE sha256 = ANY($1)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GracePeriods:
    """
    How long things are left alone.

    Args:
        idle: what nobody pins, before it is condemned; and what began to be stored and never came.
        condemned: what is condemned, before its bytes go.
        least: the shortest idle time that a caller may ask for.
    """

    idle: timedelta
    condemned: timedelta
    least: timedelta


@dataclass(slots=True)
class CollectionResult:
    """
    What a collection did, or would do.

    Args:
        failed_count: whose bytes may still be there, though their time has come.
        after: where to go on; empty when all is done.
    """

    condemned_count: int = 0
    condemned_bytes: int = 0
    deleted_count: int = 0
    deleted_bytes: int = 0
    failed_count: int = 0
    names: list[str] = field(default_factory=list)
    after: str = ""


class GarbageCollector:
    """
    Both phases.

    Args:
        database: what is known of assets.
        writer: does the writes.
        bucket: where the bytes are.
    """

    def __init__(self, database: Database, writer: Writer, bucket: Bucket) -> None:
        self._database = database
        self._writer = writer
        self._bucket = bucket

    async def collect(
        self,
        grace: GracePeriods,
        *,
        dry: bool = False,
        actor: str = _ACTOR,
        after: str = "",
        seconds: float = math.inf,
    ) -> CollectionResult:
        """
        Do both phases once, or say what they would do.

        Args:
            after: where an earlier call has stopped.
            seconds: stop after the batch with which they are over.
        """
        if dry:
            return await self._count(grace)
        found, until = CollectionResult(after=after), time.monotonic() + seconds
        if await self._delete(grace, found, until) and await self._condemn(grace, found, until, actor):
            found.after = ""
        return found

    async def _count(self, grace: GracePeriods) -> CollectionResult:
        due = await self._database.fetch_row(_DUE_TOTAL, grace.condemned, grace.idle)
        idle = await self._database.fetch_row(_IDLE_TOTAL, grace.idle)
        rows = await self._database.fetch(_IDLE, grace.idle, _MOST_NAMES, _EVER, "")
        names = [to_asset(row).name for row in rows]
        return CollectionResult(idle["count"], idle["bytes"], due["count"], due["bytes"], names=names)

    async def _condemn(self, grace: GracePeriods, found: CollectionResult, until: float, actor: str) -> bool:
        """
        Returns:
            Whether there is no more to do.
        """
        since = (_EVER, "")
        while rows := await self._database.fetch(_IDLE, grace.idle, _BATCH, *since):
            idle = [to_asset(row) for row in rows]
            since = (rows[-1]["touch_time"], rows[-1]["sha256"])
            gone = await self._condemn_batch(idle, grace, actor)
            found.condemned_count += len(gone)
            found.condemned_bytes += sum(asset.size_bytes for asset in gone)
            found.names += [asset.name for asset in gone][: _MOST_NAMES - len(found.names)]
            if len(rows) == _BATCH and time.monotonic() >= until:
                return False
        return True

    async def _condemn_batch(self, assets: list[Asset], grace: GracePeriods, actor: str) -> list[Asset]:
        gone: list[Asset] = []

        async def work(transaction: Transaction) -> None:
            gone.clear()
            locked = await transaction.rows(_LOCK, [asset.sha256 for asset in assets], grace.idle)
            rows = await transaction.rows(_UNPINNED, [row["sha256"] for row in locked])
            gone.extend(map(to_asset, rows))
            if not gone:
                await transaction.nothing()
                return
            await transaction.last(CONDEMN, condemned(gone), [asset.sha256 for asset in gone])

        write = Write(actor, "CollectGarbage", "", "", b"")
        await self._writer.run(write, work, lambda _: b"", None)
        return gone

    async def _delete(self, grace: GracePeriods, found: CollectionResult, until: float) -> bool:
        """
        Returns:
            Whether there is time for the other phase.
        """
        while rows := await self._database.fetch(_DUE, grace.condemned, grace.idle, _DELETED_AT_ONCE, found.after):
            found.after = rows[-1]["sha256"]
            if not await self._delete_batch([row["sha256"] for row in rows], grace, found):
                # It would be the same with the next ones.
                break
            if time.monotonic() >= until:
                return False
        found.after = _CONDEMNING
        return True

    async def _delete_batch(self, digests: list[str], grace: GracePeriods, found: CollectionResult) -> bool:
        """
        Delete the bytes of some assets, but of those that somebody else is at, or that were brought back.

        Returns:
            Whether the object store answers.
        """
        # Committed before anything is deleted: from here on nobody brings them back.
        marked = await self._database.fetch(_DELETING, grace.condemned, grace.idle, digests)
        if not marked:
            return True
        stop = asyncio.Event()
        # A task of its own, that no cancel reaches: the locks must not end before the request that they are for.
        deleting = begin(self._delete_held([row["sha256"] for row in marked], found, stop))
        try:
            return await asyncio.shield(deleting)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({deleting})
            raise

    async def _delete_held(self, digests: list[str], found: CollectionResult, stop: asyncio.Event) -> bool:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
            until = time.monotonic() + _LOCKED_SECONDS
            held = {row["sha256"]: row["size_bytes"] for row in await connection.fetch(_HOLD.sql, digests)}
            if not held or stop.is_set():
                return True
            try:
                kept = await self._bucket.delete_many([key for each in held for key in all_keys(each)], until=until)
            except ModelyardError as error:
                _log.warning("the bytes of %d assets are not deleted yet: %s", len(held), error)
                found.failed_count += len(held)
                return False
            gone = [each for each in held if kept.isdisjoint(all_keys(each))]
            if len(gone) < len(held):
                _log.warning("the object store did not delete %d objects, such as %s", len(kept), min(kept))
            await connection.execute(_GONE.sql, gone)
        found.failed_count += len(held) - len(gone)
        found.deleted_count += len(gone)
        found.deleted_bytes += sum(held[each] for each in gone)
        return True
