"""
Maintenance: leftovers of abandoned uploads are deleted from S3, and uploads in progress are not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from modelyard.cdn.v1 import assets_pb2
from services.cdn.model import Caller, Draft, UploadWay
from services.cdn.store.assets import Limits, open_assets
from services.cdn.store.maintenance import Maintenance, Schedule
from services.cdn.store.objects.bucket import Bucket, Multipart
from services.cdn.store.records import Records
from services.cdn.store.retention.garbage_collection import CollectionResult, GarbageCollector, GracePeriods
from services.cdn.store.uploads.completion import UploadCompleter
from services.cdn.store.uploads.resumable import begin
from services.cdn.store.uploads.sessions import UploadLimits, UploadSessions
from services.cdn.tests.calls import chunks, digest, download, header, some_bytes
from services.cdn.tests.conftest import Cdn, Store, World, serving_here
from services.cdn.tests.uploading import PART, Client
from services.chassis.errors import PermissionDenied, Unavailable
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.writer import Writer

_NONE, _HOUR = timedelta(0), timedelta(hours=1)
# S3 reports times in whole seconds.
_ANY_AGE = timedelta(seconds=-1)


class Paged(Bucket):
    """
    A bucket that lists two open uploads per request.
    """

    async def open_uploads(self, at_once: int = 2) -> list[Multipart]:
        """
        All of them.
        """
        return await super().open_uploads(at_once)


@dataclass(frozen=True)
class Yard:
    """
    A maintenance job and its bucket.

    Args:
        maintenance: for multipart uploads of an age.
    """

    bucket: Bucket
    uploads: UploadSessions
    store: Store
    maintenance: Callable[[timedelta], Maintenance]

    def leave(self, key: str) -> None:
        """
        Start a multipart upload without a session.
        """
        self.store.client.create_multipart_upload(Bucket=self.store.bucket, Key=key)


@pytest.fixture
async def yard(world: World) -> AsyncIterator[Yard]:
    """
    Maintenance in this process, with an empty bucket and an empty database.
    """
    place = world.place()
    settings = world.straight(place.bucket)
    async with (
        open_database(DatabaseSettings(url=place.database)) as database,
        open_assets(settings, Records(database), Limits(1 << 26, 0, 0)) as assets,
    ):
        bucket, uploads, writer = (
            Paged(settings),
            UploadSessions(database, UploadLimits(_HOUR, 100, 100, _HOUR)),
            Writer(database),
        )
        completer, collection = (
            UploadCompleter(assets, Records(database), uploads),
            GarbageCollector(database, writer, bucket),
        )

        def maintenance(age: timedelta) -> Maintenance:
            schedule, grace = Schedule(sweep=0.1, collect=0, orphan=age, keep=_HOUR), GracePeriods(_NONE, _NONE, _NONE)
            return Maintenance(bucket, uploads, completer, collection, _no_shares, Changelog(database), grace, schedule)

        yield Yard(bucket, uploads, Store(world.client, place.bucket), maintenance)
        await writer.close()
        await bucket.close()


async def _no_shares() -> int:
    return 0


async def test_what_belongs_to_nothing(yard: Yard) -> None:
    """
    Old multipart uploads and staged objects without a session are deleted, whatever their key. Younger ones stay, and
    those of an open upload.
    """
    for key in (f"assets/{digest(b'?')}", "static/large.bin", f"versions/name/{digest(b'?')}"):
        yard.leave(key)
    # Its row was deleted first.
    staged = f"staging/{uuid.uuid4()}"
    yard.store.client.put_object(Bucket=yard.store.bucket, Key=staged, Body=b"?")
    upload = await yard.uploads.open(Draft(digest(b"!"), 1, "text/plain"), Caller("", ""))
    upload = await begin(yard.bucket, yard.uploads, upload, UploadWay.DIRECT)
    await yard.maintenance(_HOUR).run_once()
    assert (len(yard.store.open_uploads()), yard.store.keys("")) == (4, [staged])
    await yard.maintenance(_ANY_AGE).run_once()
    assert (yard.store.open_uploads(), yard.store.keys("")) == ([upload.key], [])


async def test_an_upload_whose_id_was_lost(yard: Yard, world: World) -> None:
    """
    A multipart upload that S3 began, and whose id was lost with the response, is aborted once it is old enough.
    """
    through_link = replace(world.straight(yard.store.bucket), endpoint=f"http://127.0.0.1:{world.link.port}")
    bucket, key = Bucket(through_link), f"assets/{digest(b'lost')}"
    world.link.hang(there=False)
    try:
        starting = asyncio.create_task(bucket.start(key, "text/plain"))
        async with asyncio.timeout(30):
            while not yard.store.open_uploads(key):
                await asyncio.sleep(0.02)
        await world.link.down()
        with pytest.raises(Unavailable):
            await starting
    finally:
        world.link.release()
        await world.link.up()
        await bucket.close()
    await yard.maintenance(_HOUR).run_once()
    assert yard.store.open_uploads(key) == [key]
    await yard.maintenance(_ANY_AGE).run_once()
    assert yard.store.open_uploads(key) == []


async def test_more_than_a_page(yard: Yard) -> None:
    """
    All orphaned uploads are aborted although S3 lists them in pages, including several of one key.
    """
    for key in ("static/a", "static/b", "static/b", "static/b", "static/c"):
        yard.leave(key)
    page = yard.store.client.list_multipart_uploads(Bucket=yard.store.bucket, MaxUploads=2)
    assert (len(page["Uploads"]), len(yard.store.open_uploads())) == (2, 5)
    await yard.maintenance(_ANY_AGE).run_once()
    assert yard.store.open_uploads() == []


async def test_variants_of_private_bytes(yard: Yard) -> None:
    """
    Compressed variants of private assets, created by an earlier release, are deleted; those of public assets stay.
    """
    keys = [f"{encoding}/{prefix}/{digest(b'?')}" for encoding in ("gzip", "zstd") for prefix in ("private", "assets")]
    for key in keys:
        yard.store.client.put_object(Bucket=yard.store.bucket, Key=key, Body=b"?")
    # S3 reports times in whole seconds.
    maintenance = yard.maintenance(_HOUR)
    async with asyncio.timeout(10):
        while yard.store.keys("gzip/private/") + yard.store.keys("zstd/private/"):
            await maintenance.run_once()
            await asyncio.sleep(0.2)
    assert sorted(yard.store.keys("")) == sorted(key for key in keys if "/assets/" in key)


async def test_each_chore_fails_by_itself(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Jobs fail independently: if listing uploads is forbidden, the others still run. The first run is soon after the
    start, however long the interval, since processes may be restarted often.
    """
    seen: list[str] = []

    async def refused() -> list[Multipart]:
        seen.append("orphans")
        raise PermissionDenied("FORBIDDEN", "s3:ListBucketMultipartUploads is missing")

    async def collect(_grace: GracePeriods) -> CollectionResult:
        seen.append("collected")
        return CollectionResult()

    async def trim(_keep: timedelta) -> None:
        seen.append("trimmed")

    monkeypatch.setattr(yard.bucket, "open_uploads", refused)
    maintenance = yard.maintenance(_ANY_AGE)
    maintenance._schedule = Schedule(sweep=0.05, collect=3600, orphan=_ANY_AGE, keep=_HOUR)
    monkeypatch.setattr(maintenance._collection, "collect", collect)
    monkeypatch.setattr(maintenance._changelog, "trim", trim)
    async with maintenance.running(), asyncio.timeout(10):
        while not (seen.count("orphans") >= 2 and seen.count("trimmed") >= 2 and "collected" in seen):
            await asyncio.sleep(0.01)


async def test_a_stream_outlives_abandoned_uploads(world: World, tmp_path: Path) -> None:
    """
    A one-shot upload may take longer than the TTL of abandoned uploads.
    """
    async with serving_here(world, MODELYARD_UPLOAD_TTL_SECONDS="1", MODELYARD_SWEEP_EVERY_SECONDS="0.1") as cdn:
        data = some_bytes(PART + 1)

        async def messages() -> AsyncIterator[assets_pb2.UploadRequest]:
            yield header(data)
            sent = chunks(data)
            for message in sent[:-1]:
                yield message
            await Client(cdn, data).has_begun(data)
            # When the second is deleted, a sweep that could have aborted the stream's upload has ended.
            for _ in range(2):
                await swept(cdn)
            yield sent[-1]

        asset = await cdn.stub.Upload(messages(), timeout=60)
        assert await download(cdn.stub, asset.name) == (data, digest(data))


async def swept(cdn: Cdn) -> None:
    """
    Abandon an upload, and wait until it is deleted.
    """
    client = Client(cdn, some_bytes(10))
    await client.start()
    await client.urls([1])
    await client.left_nothing()
