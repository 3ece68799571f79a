"""
Periodic maintenance: expired uploads, orphaned multipart uploads, the change log, garbage collection.
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
# The last two: multipart copies of large objects.
_PREFIXES = ("assets/", "private/", STAGING, "static/", "versions/")


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    Intervals of the jobs.

    Args:
        sweep: seconds between two checks for expired uploads.
        collect: seconds between two garbage collections; 0 for none.
        orphan: age after which a multipart upload without a session is aborted.
        keep: retention of the change log.
    """

    sweep: float
    collect: float
    orphan: timedelta
    keep: timedelta


@dataclass(frozen=True, slots=True)
class _Job:
    """
    A periodic job.

    Args:
        seconds: interval.
        work: to run.
        doing: description for the log.
        first: seconds until the first run, if sooner.
    """

    seconds: float
    work: Callable[[], Awaitable[object]]
    doing: str
    first: float | None = None


class Maintenance:
    """
    Runs the periodic jobs.

    Args:
        bucket: with the multipart uploads.
        uploads: the upload sessions.
        completer: cleans up after expired uploads.
        collection: deletes unpinned assets.
        remove_version_copies: deletes obsolete copies of shared versions.
        log: of changes.
        grace: periods of the garbage collection.
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
        Run the jobs periodically while the block lasts. They fail independently of each other: a missing permission to
        list uploads must not stop the garbage collection.
        """
        works = [every(each.seconds, each.work, each.doing, first=each.first) for each in self._jobs()]
        async with beside(*works):
            yield

    async def run_once(self) -> None:
        """
        Run every job once.

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
            # The first run soon: a process that is restarted every hour would never collect.
            first = min(sweep, collect)
            chores += [
                _Job(collect, self._remove_version_copies, "remove copies of shared versions", first),
                _Job(collect, self._collect, "collect assets", first),
            ]
        return chores

    async def _drop_expired(self) -> None:
        while expired := await self._uploads.drop_expired():
            for upload in expired:
                _log.info("%s expired at %d bytes", upload.name, upload.committed_bytes)
                await self._completer.clean(upload)

    async def _collect(self) -> None:
        found = await self._collection.collect(self._grace)
        if found.condemned_count or found.deleted_count:
            _log.info("collected: %d condemned, %d deleted", found.condemned_count, found.deleted_count)

    async def _abort_orphans(self) -> None:
        # Of one-shot uploads whose process crashed, and of sessions whose row was deleted first.
        before = datetime.now(UTC) - self._schedule.orphan
        old = {each.id: each.key for each in await self._bucket.open_uploads() if _is_ours(each, before)}
        for multipart in await self._uploads.unknown(list(old)):
            await abort(self._bucket, old[multipart], multipart)
        # Staged objects that could not be deleted after their verification.
        staged = [upload for key in await self._bucket.below(STAGING, before) if (upload := staged_upload(key))]
        await self._bucket.delete([staging_key(upload) for upload in await self._uploads.closed(staged)])

    async def _remove_private_variants(self) -> None:
        # Created by releases before the third migration.
        while self._private_variants:
            prefixes = [variant_key(encoding, "private/") for encoding in ENCODINGS]
            found = [await self._bucket.below(prefix, datetime.now(UTC)) for prefix in prefixes]
            if not any(found):
                self._private_variants = False
            for keys in found:
                await self._bucket.delete(keys)


def _is_ours(multipart: Multipart, before: datetime) -> bool:
    return multipart.key.startswith(_PREFIXES) and multipart.time < before
