"""
Leases of upload sessions: who may write to an upload, and who may finish it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import uploads_pb2
from services.cdn.model import Caller, Draft, Upload
from services.cdn.store.retention.garbage_collection import GracePeriods
from services.cdn.store.uploads.sessions import UploadLimits, UploadSessions
from services.cdn.tests.calls import MIB, digest, some_bytes
from services.cdn.tests.machines import call, open_shop
from services.cdn.tests.memory_bucket import MemoryBucket
from services.chassis.errors import Aborted
from services.ledger.store.database import DatabaseSettings, open_database

_HOUR = timedelta(hours=1)
_DRAFT = Draft(digest(b"some bytes"), 10, "text/plain")


@pytest.fixture
async def sessions(new_assets_database: Callable[[], str]) -> AsyncIterator[UploadSessions]:
    """
    Upload sessions in an empty database.
    """
    async with open_database(DatabaseSettings(url=new_assets_database())) as database:
        yield UploadSessions(database, UploadLimits(_HOUR, 10, 10, _HOUR))


@pytest.fixture
async def upload(sessions: UploadSessions) -> Upload:
    """
    An open upload.
    """
    return await sessions.open(_DRAFT, Caller("", ""))


async def test_late_renewal_of_a_released_lease(sessions: UploadSessions, upload: Upload) -> None:
    """
    A renewal of the writer's lease may reach the database after the release: the upload stays free.
    """
    writer = await sessions.acquire_lease(upload.id)
    assert await sessions.renew_lease(writer)
    await sessions.release_lease(writer)
    assert not await sessions.renew_lease(writer)
    assert not (await sessions.get(upload.id)).in_use
    await sessions.claim(upload.id, 60)


async def test_late_renewal_of_a_released_claim(sessions: UploadSessions, upload: Upload) -> None:
    """
    A renewal of the claim to finish may reach the database after its release: another call may finish the upload.
    """
    claimed = await sessions.claim(upload.id, 60)
    assert await sessions.renew_claim(claimed, 60)
    with pytest.raises(Aborted):
        await sessions.claim(upload.id, 60)
    await sessions.release_claim(claimed)
    assert not await sessions.renew_claim(claimed, 60)
    await sessions.claim(upload.id, 60)


async def test_renewal_of_an_expired_lease(sessions: UploadSessions, upload: Upload) -> None:
    """
    A writer that renews its lease too late, but before anybody else has taken over, holds it again.
    """
    brief = UploadSessions(sessions._database, UploadLimits(_HOUR, 10, 10, timedelta(0)))
    writer = await brief.acquire_lease(upload.id)
    assert not (await sessions.get(upload.id)).in_use
    assert await sessions.renew_lease(writer)
    assert (await sessions.get(upload.id)).in_use


async def test_finish_after_a_cancelled_renewal(
    new_assets_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    FinishUpload right after WriteUpload succeeds, although a renewal of the lease was under way when the write ended:
    it was cancelled, but executed after the release.
    """
    data, renewing, released = b"some bytes", asyncio.Event(), asyncio.Event()
    renew, release, late = UploadSessions.renew_lease, UploadSessions.release_lease, []

    async def renew_after_release(uploads: UploadSessions, upload: Upload) -> bool:
        async def statement() -> bool:
            await released.wait()
            return await renew(uploads, upload)

        late.append(asyncio.create_task(statement()))
        renewing.set()
        return await asyncio.shield(late[0])

    async def release_then_wait(uploads: UploadSessions, upload: Upload) -> None:
        await release(uploads, upload)
        released.set()
        await asyncio.gather(*late)

    async def messages(name: str) -> AsyncIterator[uploads_pb2.WriteUploadRequest]:
        yield uploads_pb2.WriteUploadRequest(name=name, chunk=pb.Chunk(data=data))
        await renewing.wait()

    monkeypatch.setattr(UploadSessions, "lease", timedelta(seconds=1.5))
    monkeypatch.setattr(UploadSessions, "renew_lease", renew_after_release)
    monkeypatch.setattr(UploadSessions, "release_lease", release_then_wait)
    bucket = MemoryBucket()
    async with open_shop(new_assets_database(), bucket, lambda: set(bucket.objects)) as shop:
        machine, _ = await shop.begin(None, GracePeriods(_HOUR, _HOUR, _HOUR))
        service = machine.uploads
        start = uploads_pb2.StartUploadRequest(sha256=digest(data), size_bytes=len(data))
        upload = await service.StartUpload(start, call())
        assert (await service.WriteUpload(messages(upload.name), call())).committed_bytes == len(data)
        asset = await service.FinishUpload(uploads_pb2.FinishUploadRequest(name=upload.name), call())
        assert asset.sha256 == digest(data)
        await shop.end([machine])


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
async def test_sizes_around_a_part(
    new_assets_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """
    Chunks are assembled into parts of the same size except the last, whatever the sizes of chunks and file.
    """
    # In memory and with small parts: S3 accepts none of less than 5 MiB.
    monkeypatch.setattr("services.cdn.model.uploads.MIN_PART_BYTES", MIB)
    data, piece = some_bytes(size), 300_000

    async def messages(name: str) -> AsyncIterator[uploads_pb2.WriteUploadRequest]:
        for offset in range(0, size, piece):
            chunk = pb.Chunk(offset=offset, data=data[offset : offset + piece])
            yield uploads_pb2.WriteUploadRequest(name=name, chunk=chunk)

    bucket = MemoryBucket()
    async with open_shop(new_assets_database(), bucket, lambda: set(bucket.objects)) as shop:
        machine, _ = await shop.begin(None, GracePeriods(_HOUR, _HOUR, _HOUR))
        service = machine.uploads
        upload = await service.StartUpload(uploads_pb2.StartUploadRequest(sha256=digest(data), size_bytes=size), call())
        assert upload.part_size_bytes == MIB
        assert (await service.WriteUpload(messages(upload.name), call())).committed_bytes == size
        asset = await service.FinishUpload(uploads_pb2.FinishUploadRequest(name=upload.name), call())
        assert bucket.objects == {f"assets/{asset.sha256}": data}
        await shop.end([machine])
