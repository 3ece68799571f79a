"""
Copies of a version's files under one prefix, so that one signature gives access to all of them and to nothing else.

A row exists before its copy is created and until it is deleted, so the rows are a superset of the copies; which copies
exist is listed from the bucket.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial

from services.cdn.model.static_files import Headers
from services.cdn.store.objects.bucket import cache_control
from services.cdn.store.objects.copier import Copier
from services.cdn.store.objects.s3 import NoSuchKey
from services.cdn.store.transactions import KEEPALIVE, background_transaction, keep_alive
from services.chassis.errors import NotFound
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

_PINNED = Statement(
    "shares.pinned",
    """
SELECT assets.sha256, assets.size_bytes, media_type, private FROM pins JOIN assets USING (sha256)
 WHERE owner = $1 ORDER BY assets.sha256
""",
)

# Updates rather than DO NOTHING: it must wait for `remove_version_copies`, which locks the rows that it will delete.
_NOTE = Statement(
    "shares.note",
    """
INSERT INTO shares (owner, sha256, expire_time) SELECT $1, sha256, $3 FROM unnest($2::text[]) AS wanted (sha256)
 ORDER BY sha256
ON CONFLICT (owner, sha256) DO UPDATE SET expire_time = greatest(shares.expire_time, excluded.expire_time)
""",
)

_UNUSED = Statement(
    "shares.unused",
    """
SELECT owner, sha256 FROM shares
 WHERE NOT EXISTS (SELECT FROM pins WHERE pins.owner = shares.owner AND pins.sha256 = shares.sha256)
    OR expire_time < now() - $1::interval
 LIMIT $2 FOR UPDATE SKIP LOCKED
""",
)

_FORGET = Statement(
    "shares.forget",
    """
DELETE FROM shares USING unnest($1::text[], $2::text[]) AS gone (owner, sha256)
 WHERE shares.owner = gone.owner AND shares.sha256 = gone.sha256
""",
)

_COPIES_AT_ONCE = 8
_REMOVED_AT_ONCE = 100
#: Retention of a copy after its last presigned URL has expired: a version is often shared repeatedly.
KEEP = timedelta(days=7)


def copies_prefix(owner: str) -> str:
    """
    Key prefix of an owner's copies.
    """
    return f"versions/{owner}/"


def no_files(owner: str) -> NotFound:
    """
    The error for an owner that pins nothing.
    """
    return NotFound("VERSION_NOT_FOUND", owner, f"{owner} has no files: no such version, or it is not pinned")


class VersionCopies:
    """
    Creates the copies.

    Args:
        database: with the rows.
        copier: of the bucket.
    """

    def __init__(self, database: Database, copier: Copier) -> None:
        self._database, self._copier = database, copier

    async def make(self, owner: str, expire_time: datetime) -> None:
        """
        Ensure that every asset pinned by *owner* has a copy. A cancelled call is completed by the next one.

        Args:
            expire_time: of the presigned URL that they are for.

        Raises:
            NotFound: *owner* pins nothing (VERSION_NOT_FOUND).
            Unavailable: the object store does not answer.
        """
        wanted = await self._database.fetch(_PINNED, owner)
        if not wanted:
            raise no_files(owner)
        digests = [row["sha256"] for row in wanted]
        await self._database.fetch(_NOTE, owner, digests, expire_time)
        there = await self._copier.below(copies_prefix(owner))
        missing = [row for row in wanted if row["sha256"] not in there]
        if missing:
            await self._copy_all(owner, missing)
            # Again: if the owner's pins were removed meanwhile, rows of the new copies may have been deleted.
            await self._database.fetch(_NOTE, owner, digests, expire_time)

    async def _copy_all(self, owner: str, missing: list[Row]) -> None:
        left = iter(missing)

        async def work() -> None:
            for row in left:
                await self._copy(owner, row)

        workers = [asyncio.create_task(work()) for _ in range(min(_COPIES_AT_ONCE, len(missing)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _copy(self, owner: str, row: Row) -> None:
        source = f"{'private' if row['private'] else 'assets'}/{row['sha256']}"
        target = f"{copies_prefix(owner)}{row['sha256']}"
        # Copies of private assets get `Cache-Control: private`, so that the CDN does not cache them.
        try:
            await self._copier.copy(
                source, target, Headers(row["media_type"], cache_control(source)), row["size_bytes"]
            )
        except NoSuchKey:
            raise NotFound("ASSET_NOT_FOUND", f"assets/{row['sha256']}") from None


async def remove_version_copies(database: Database, copier: Copier, keep: timedelta = KEEP) -> int:
    """
    Delete copies that their owner no longer pins, and those whose last presigned URL expired longer than *keep* ago.

    Returns:
        Number of deleted copies.

    Raises:
        Unavailable: the object store does not answer; the next run deletes the rest.
    """
    removed = 0
    while True:
        async with background_transaction(database) as run:
            rows = await run(_UNUSED, keep, _REMOVED_AT_ONCE)
            async with keep_alive(partial(run, KEEPALIVE)):
                await copier.remove(f"{copies_prefix(row['owner'])}{row['sha256']}" for row in rows)
            await run(_FORGET, [row["owner"] for row in rows], [row["sha256"] for row in rows])
        removed += len(rows)
        if len(rows) < _REMOVED_AT_ONCE:
            return removed
