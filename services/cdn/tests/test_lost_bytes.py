"""
Interleavings in which referenced bytes were lost once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import uploads_pb2
from services.cdn.model import Draft, asset_key, asset_name
from services.cdn.store.retention.garbage_collection import GracePeriods
from services.cdn.store.uploads.sessions import UploadSessions
from services.cdn.tests.calls import digest
from services.cdn.tests.machines import Machine, Shop, call, open_shop, stream, upload_at_once
from services.cdn.tests.memory_bucket import MemoryBucket
from services.chassis.errors import Aborted

DATA = b"bytes"
SHA256 = digest(DATA)
NAME = asset_name(SHA256)
AT_ONCE = GracePeriods(timedelta(0), timedelta(0), timedelta(0))


class SlowBucket(MemoryBucket):
    """
    Carries out one deletion only on demand, even if its caller was cancelled.

    Attributes:
        slow: the key whose first deletion that is.
        began: it was asked for.
        go: carry it out.
        late: it, once it was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slow = ""
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.late: list[asyncio.Task[None]] = []

    async def delete(self, keys: Sequence[str], *, until: float | None = None) -> None:
        for key in keys:
            if key != self.slow:
                await super().delete([key], until=until)
                continue
            self.slow = ""
            self.late.append(asyncio.create_task(self._delete_late(key)))
            self.began.set()
            await asyncio.shield(self.late[0])

    async def _delete_late(self, key: str) -> None:
        await self.go.wait()
        await super().delete([key])


@pytest.fixture
def bucket() -> SlowBucket:
    """
    The bucket.
    """
    return SlowBucket()


@pytest.fixture
async def shop(new_assets_database: Callable[[], str], bucket: SlowBucket) -> AsyncIterator[Shop]:
    """
    The databases of two services, and the bucket.
    """
    async with open_shop(new_assets_database(), bucket, lambda: set(bucket.objects)) as shop:
        yield shop


async def collect(machine: Machine) -> None:
    """
    Call CollectGarbage.
    """
    await machine.assets.CollectGarbage(pb.CollectGarbageRequest(), call())


async def done_or_waiting(shop: Shop, task: asyncio.Task[None]) -> None:
    """
    Wait until *task* has ended or waits for a lock in the database.
    """
    while not task.done() and not await shop.waiting():
        await asyncio.sleep(0.01)


async def is_stored(shop: Shop) -> bool:
    """
    Whether the asset exists; fails if it exists without its bytes.
    """
    state, key = (await shop.look()).assets.get(SHA256, ("", ""))
    assert state != "LIVE" or await shop.has(key)
    return state == "LIVE"


async def test_a_reservation_counts_for_its_own_bytes(shop: Shop) -> None:
    """
    An upload whose row and bytes were collected does not become visible through the reservation of the next upload,
    whose bytes have not been stored yet.
    """
    machine, other = await shop.begin(None, AT_ONCE)
    async with machine.store.write(Draft(SHA256, len(DATA), "text/plain")) as writer:
        await writer.write(DATA)
        verified = await writer.finish()
    await collect(other)
    await other.records.reserve(SHA256, len(DATA), "text/plain", private=False)
    with pytest.raises(Aborted):
        await machine.registration.register(call(), pb.UploadRequest(), verified)
    assert not await is_stored(shop)


async def test_a_second_life_of_a_reservation(shop: Shop) -> None:
    """
    A private upload does not become visible through a reservation made after its bytes were deleted, as when others
    publish and delete the asset meanwhile.
    """
    machine, other = await shop.begin(None, AT_ONCE)
    await upload_at_once(other, DATA, private=True)
    async with machine.store.write(Draft(SHA256, len(DATA), "text/plain", private=True)) as writer:
        await writer.write(DATA)
        verified = await writer.finish()
    await upload_at_once(other, DATA, private=False)
    await other.assets.DeleteAsset(pb.DeleteAssetRequest(name=NAME), call())
    await other.records.reserve(SHA256, len(DATA), "text/plain", private=True)
    with pytest.raises(Aborted):
        await machine.registration.register(call(), pb.UploadRequest(), verified)
    assert not await is_stored(shop)


async def test_a_finish_that_ends_while_another_begins(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    FinishUpload returns the asset when another call has finished the upload since it checked.
    """
    machine, other = await shop.begin(None, AT_ONCE)
    start = uploads_pb2.StartUploadRequest(sha256=SHA256, size_bytes=len(DATA))
    upload = await machine.uploads.StartUpload(start, call())
    whole = uploads_pb2.WriteUploadRequest(name=upload.name, chunk=pb.Chunk(data=DATA))
    await machine.uploads.WriteUpload(stream(whole), call())
    finish = uploads_pb2.FinishUploadRequest(name=upload.name)
    asked, finished = UploadSessions.was_finished, asyncio.Event()

    async def was_finished(uploads: UploadSessions, name: str) -> str | None:
        found = await asked(uploads, name)
        if not finished.is_set():
            finished.set()
            await other.uploads.FinishUpload(finish, call())
        return found

    monkeypatch.setattr(UploadSessions, "was_finished", was_finished)
    assert (await machine.uploads.FinishUpload(finish, call())).sha256 == SHA256


async def test_a_collection_that_is_cancelled(shop: Shop, bucket: SlowBucket) -> None:
    """
    A collection is cancelled while S3 is deleting: nobody stores the bytes again until that has completed.
    """
    machine, other = await shop.begin(None, AT_ONCE)
    await upload_at_once(machine, DATA, private=False)
    await collect(machine)
    bucket.slow = asset_key(SHA256, private=False)
    collecting = asyncio.create_task(collect(machine))
    await bucket.began.wait()
    collecting.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    await collect(other)
    storing = asyncio.create_task(upload_at_once(other, DATA, private=False))
    await done_or_waiting(shop, storing)
    bucket.go.set()
    await asyncio.gather(*bucket.late, collecting, storing, return_exceptions=True)
    await is_stored(shop)
    await collect(other)
    await upload_at_once(other, DATA, private=False)
    assert await is_stored(shop)
