"""
Keeps what is only kept for a time from growing for ever: abandoned uploads, the log of changes, what nobody pins.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from services.cdn.model import ENCODINGS, STAGING, staged_upload, staging_key, variant_key
from services.cdn.store.objects.bucket import Bucket, Multipart
from services.cdn.store.retention.garbage_collection import GarbageCollector, GracePeriods
from services.cdn.store.uploads.completion import UploadCompleter
from services.cdn.store.uploads.multipart import abort
from services.cdn.store.uploads.sessions import UploadSessions
from services.chassis.serving.background import beside, every
from services.ledger.store.changelog import Changelog

_log = logging.getLogger(__name__)
_MONTHS_SECONDS = 3600.0
# The last two: copies that are larger than one call makes.
_PREFIXES = ("assets/", "private/", STAGING, "static/", "versions/")


@dataclass(frozen=True, slots=True)
class Schedule:
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


@dataclass(frozen=True, slots=True)
class _Job:
    """
    What is done now and then.

    Args:
        seconds: from one time to the next.
        work: how.
        doing: what it is called.
        first: seconds until the first time, when that is sooner.
    """

    seconds: float
    work: Callable[[], Awaitable[object]]
    doing: str
    first: float | None = None


class Maintenance:
    """
    Looks after all of it.

    Args:
        bucket: where uploads leave parts.
        uploads: how far uploads are.
        completer: takes away what they left.
        collection: forgets what nobody pins.
        remove_version_copies: forgets the copies for shared versions that nobody needs.
        log: of changes.
        grace: how long what nobody pins is left alone.
        schedule: how often.
    """

    def __init__(
        self,
        bucket: Bucket,
        uploads: UploadSessions,
        completer: UploadCompleter,
        collection: GarbageCollector,
        remove_version_copies: Callable[[], Awaitable[int]],
        log: Changelog,
        grace: GracePeriods,
        schedule: Schedule,
    ) -> None:
        self._bucket, self._uploads, self._completer = bucket, uploads, completer
        self._collection, self._remove_version_copies = collection, remove_version_copies
        self._changelog, self._grace, self._schedule = log, grace, schedule
        self._private_variants = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Do all of it now and then while the block lasts. Each chore fails by itself: one that may not list uploads must
        not keep the bucket from being collected.
        """
        works = [every(each.seconds, each.work, each.doing, first=each.first) for each in self._jobs()]
        async with beside(*works):
            yield

    async def run_once(self) -> None:
        """
        Do all of it once.

        Raises:
            ModelyardError: the database or S3 does not answer.
        """
        for chore in self._jobs():
            await chore.work()

    def _jobs(self) -> list[_Job]:
        sweep, collect = self._schedule.sweep, self._schedule.collect
        chores = [
            _Job(sweep, partial(self._changelog.trim, self._schedule.keep), "trim the log of changes"),
            _Job(sweep, self._changelog.forget, "forget old requests"),
            _Job(_MONTHS_SECONDS, self._changelog.make_months, "make months of the audit", first=1.0),
            _Job(sweep, self._uploads.forget, "forget finished uploads"),
            _Job(sweep, self._drop_expired, "drop abandoned uploads"),
            _Job(sweep, self._abort_orphans, "abort orphaned uploads"),
            _Job(sweep, self._remove_private_variants, "remove variants of private assets"),
        ]
        if collect:
            # The first time soon: a process that is restarted every hour would never collect.
            first = min(sweep, collect)
            chores += [
                _Job(collect, self._remove_version_copies, "remove copies of shared versions", first),
                _Job(collect, self._collect, "collect assets", first),
            ]
        return chores

    async def _drop_expired(self) -> None:
        while expired := await self._uploads.drop_expired():
            for upload in expired:
                _log.info("%s was abandoned at %d bytes", upload.name, upload.committed_bytes)
                await self._completer.clean(upload)

    async def _collect(self) -> None:
        found = await self._collection.collect(self._grace)
        if found.condemned_count or found.deleted_count:
            _log.info("collected: %d condemned, %d deleted", found.condemned_count, found.deleted_count)

    async def _abort_orphans(self) -> None:
        # Those of uploads that cannot be taken up again, whose process died; and of rows that went first.
        before = datetime.now(UTC) - self._schedule.orphan
        old = {each.id: each.key for each in await self._bucket.open_uploads() if _is_ours(each, before)}
        for multipart in await self._uploads.unknown(list(old)):
            await abort(self._bucket, old[multipart], multipart)
        # Those that were completed for their verification, and could not be taken away then.
        staged = [upload for key in await self._bucket.below(STAGING, before) if (upload := staged_upload(key))]
        await self._bucket.delete([staging_key(upload) for upload in await self._uploads.closed(staged)])

    async def _remove_private_variants(self) -> None:
        # Releases before the third migration made them.
        while self._private_variants:
            prefixes = [variant_key(encoding, "private/") for encoding in ENCODINGS]
            found = [await self._bucket.below(prefix, datetime.now(UTC)) for prefix in prefixes]
            if not any(found):
                self._private_variants = False
            for keys in found:
                await self._bucket.delete(keys)


def _is_ours(multipart: Multipart, before: datetime) -> bool:
    return multipart.key.startswith(_PREFIXES) and multipart.time < before
