# ruff: noqa: S608 - only constant column and table names are interpolated; values are parameters
"""
Garbage collection of unpinned assets, in two phases (docs/adr/0015) and in batches (docs/adr/0042).

First an unpinned asset is condemned: it is no longer found, while its bytes remain for downloads in progress. After a
delay it is marked as DELETING, and only then, under a row lock that uploads of the same bytes respect, its objects and
its row are deleted.
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
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.ledger.store.writer import Writer

_ACTOR = "modelyard-cdn"
_BATCH = 200
_MOST_NAMES = 1000
# Six keys each, so that one DeleteObjects request is enough.
_DELETED_AT_ONCE = 100
# The cursor after every digest: the deletion phase is done.
_CONDEMNING = "~"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# The row lock ends with its connection, which the server closes after this idle time. Nothing is deleted later than
# _LOCKED_SECONDS.
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

# A separate statement after the locks, so that it sees the pins that were added while it waited for them.
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

# Rows that another process is deleting are skipped.
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
    Grace periods.

    Args:
        idle: of an unpinned asset before it is condemned, and of a reservation whose bytes never arrived.
        condemned: of a condemned asset before its bytes are deleted.
        least: the shortest idle period that a caller may request.
    """

    idle: timedelta
    condemned: timedelta
    least: timedelta


@dataclass(slots=True)
class CollectionResult:
    """
    The result of a collection or of a dry run.

    Args:
        failed_count: assets that were due and could not be deleted.
        after: cursor to continue from; empty when complete.
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
    Runs both phases.

    Args:
        database: with the records of assets.
        writer: runs the write transactions.
        bucket: with the bytes.
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
        Run both phases once, or report what they would do.

        Args:
            after: cursor of an earlier call.
            seconds: time limit; the batch in progress is completed.
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
            Whether the phase is complete.
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
            Whether time is left for the other phase.
        """
        while rows := await self._database.fetch(_DUE, grace.condemned, grace.idle, _DELETED_AT_ONCE, found.after):
            found.after = rows[-1]["sha256"]
            if not await self._delete_batch([row["sha256"] for row in rows], grace, found):
                # The object store does not answer: the next batches would fail, too.
                break
            if time.monotonic() >= until:
                return False
        found.after = _CONDEMNING
        return True

    async def _delete_batch(self, digests: list[str], grace: GracePeriods, found: CollectionResult) -> bool:
        """
        Delete the bytes of assets, except of those that another process is deleting or that were restored.

        Returns:
            Whether the object store answers.
        """
        # Committed before anything is deleted: from here on no upload restores them.
        marked = await self._database.fetch(_DELETING, grace.condemned, grace.idle, digests)
        if not marked:
            return True
        stop = asyncio.Event()
        # A separate task, shielded from cancellation: the locks must outlive the request that they protect.
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
                _log.warning("could not delete the bytes of %d assets, will retry: %s", len(held), error)
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
