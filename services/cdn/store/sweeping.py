"""
Keeps what is only kept for a time from growing for ever: abandoned uploads, the log of changes, what nobody pins.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.cdn.model import STAGING, staged_upload, staging_key
from services.cdn.store.aborting import abort
from services.cdn.store.bucket import Bucket, Multipart
from services.cdn.store.collection import Collection, Grace
from services.cdn.store.finishing import Finisher
from services.cdn.store.uploads import Uploads
from services.chassis.background import beside, every
from services.ledger.store.changelog import Changelog

_log = logging.getLogger(__name__)
# The last two: copies that are larger than one call makes.
_PREFIXES = ("assets/", "private/", STAGING, "static/", "versions/")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """
    How often things are looked after.

    Args:
        sweep: seconds between two looks for abandoned uploads.
        collect: seconds between two collections; 0 for none.
        orphan: how old a multipart upload must be that belongs to nothing.
        keep: how far back the log of changes reaches.
    """

    sweep: float
    collect: float
    orphan: timedelta
    keep: timedelta


class Sweeper:
    """
    Looks after all of it.

    Args:
        bucket: where uploads leave parts.
        uploads: how far uploads are.
        finisher: takes away what they left.
        collection: forgets what nobody pins.
        remove_shares: forgets the copies for shared versions that nobody needs.
        log: of changes.
        grace: how long what nobody pins is left alone.
        rhythm: how often.
    """

    def __init__(
        self,
        bucket: Bucket,
        uploads: Uploads,
        finisher: Finisher,
        collection: Collection,
        remove_shares: Callable[[], Awaitable[int]],
        log: Changelog,
        grace: Grace,
        rhythm: Rhythm,
    ) -> None:
        self._bucket, self._uploads, self._finisher = bucket, uploads, finisher
        self._collection, self._remove_shares = collection, remove_shares
        self._changelog, self._grace, self._rhythm = log, grace, rhythm

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """
        Sweep now and then while the block lasts. Each of the chores fails by itself: one that may not list uploads must
        not keep the bucket from being collected.
        """
        rhythm = self._rhythm
        works = [
            every(rhythm.sweep, self.trim, "trim the log of changes", task="trim-changes"),
            every(rhythm.sweep, self.drop_expired, "drop abandoned uploads"),
            every(rhythm.sweep, self.abort_orphans, "abort orphaned uploads"),
        ]
        if rhythm.collect:
            # The first one soon: a process that is restarted every hour would never collect.
            first = min(rhythm.sweep, rhythm.collect)
            works.append(every(rhythm.collect, self.remove_shares, "remove copies of shared versions", first=first))
            works.append(every(rhythm.collect, self.collect, "collect assets", first=first))
        async with beside(*works):
            yield

    async def trim(self) -> None:
        """
        Cut off what the log of changes need not hold any more.

        Raises:
            ModelyardError: the database does not answer.
        """
        await self._changelog.trim(self._rhythm.keep)

    async def drop_expired(self) -> None:
        """
        Forget uploads that nobody goes on with.

        Raises:
            ModelyardError: the database or S3 does not answer.
        """
        while expired := await self._uploads.drop_expired():
            for upload in expired:
                _log.info("%s was abandoned at %d bytes", upload.name, upload.committed_bytes)
                await self._finisher.clean(upload)

    async def remove_shares(self) -> None:
        """
        Forget the copies for shared versions that nobody needs.

        Raises:
            ModelyardError: the database or S3 does not answer.
        """
        await self._remove_shares()

    async def collect(self) -> None:
        """
        Forget what nobody pins.

        Raises:
            ModelyardError: the database or S3 does not answer.
        """
        found = await self._collection.collect(self._grace)
        if found.condemned_count or found.deleted_count:
            _log.info("collected: %d condemned, %d deleted", found.condemned_count, found.deleted_count)

    async def abort_orphans(self) -> None:
        """
        Take away what uploads left in the bucket that belong to nothing.

        Raises:
            ModelyardError: the database or S3 does not answer.
        """
        # Those of uploads that cannot be taken up again, whose process died; and of rows that went first.
        before = datetime.now(UTC) - self._rhythm.orphan
        old = {each.id: each.key for each in await self._bucket.open_uploads() if _is_ours(each, before)}
        for multipart in await self._uploads.unknown(list(old)):
            await abort(self._bucket, old[multipart], multipart)
        # Those that were completed for their verification, and could not be taken away then.
        staged = [upload for key in await self._bucket.below(STAGING, before) if (upload := staged_upload(key))]
        await self._bucket.delete([staging_key(upload) for upload in await self._uploads.closed(staged)])


def _is_ours(multipart: Multipart, before: datetime) -> bool:
    return multipart.key.startswith(_PREFIXES) and multipart.time < before
