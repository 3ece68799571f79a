"""
Limits per client: its uploads take neither upload sessions nor memory from other clients, and nobody can access another
subject's upload.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceStub
from services.cdn.service.upload_streams import StreamLimits, UploadStream
from services.cdn.tests.access_control import access_controlled
from services.cdn.tests.calls import MIB, chunk, digest, download, failure, header, some_bytes, stream, upload
from services.cdn.tests.conftest import Cdn, World, serving_here
from services.cdn.tests.uploading import PART, Client
from services.chassis.errors import Aborted
from tests.drills.abuse.attacks import dripping_uploads, opened_uploads


def address(number: int) -> tuple[tuple[str, str], ...]:
    """
    The metadata of a client behind the gateway while access control is off.
    """
    return (("x-modelyard-client", f"198.51.100.{number}"),)


async def start(cdn: Cdn, client: int, data: bytes | None = None) -> pb.Upload:
    """
    Open an upload, of random bytes unless given.
    """
    data = some_bytes(8) if data is None else data
    request = pb.StartUploadRequest(sha256=digest(data), size_bytes=len(data))
    return await UploadServiceStub(cdn.channel).StartUpload(request, metadata=address(client), timeout=20)


async def test_opened_uploads(world: World) -> None:
    """
    The number of open uploads per client is limited (UPLOADS_OPEN). Uploads without bytes do not count against the
    limit for all clients, and stored bytes can be pushed again at any number of open uploads.
    """
    async with serving_here(world, MODELYARD_UPLOADS_MOST="3", MODELYARD_UPLOADS_MOST_PER_CLIENT="2") as cdn:
        stored = some_bytes(5)
        await upload(cdn.stub, stored)
        for attacker in range(3):
            for _ in range(2):
                await start(cdn, attacker)
            with pytest.raises(grpc.RpcError) as caught:
                await start(cdn, attacker)
            found = failure(caught.value)
            assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOADS_OPEN")
            complete = await start(cdn, attacker, stored)
            assert complete.complete
            finish = pb.FinishUploadRequest(name=complete.name)
            asset = await UploadServiceStub(cdn.channel).FinishUpload(finish)
            assert asset.sha256 == digest(stored)
        await opened_uploads(int(cdn.target.rpartition(":")[2]), 10)
        data = some_bytes(PART + 1)
        victim = Client(cdn, data)
        victim.name = (await start(cdn, 99, data)).name
        await victim.write(0)
        assert (await victim.finish()).sha256 == digest(data)


async def test_what_nothing_is_stored_of_is_not_kept_for_long(cdn: Cdn) -> None:
    """
    An upload without a stored part expires after ten minutes; with one, or with presigned URLs, after a day. No
    multipart upload is created before the first byte.
    """
    client = Client(cdn, some_bytes(2 * PART))
    minutes = time.time() + 11 * 60
    assert (await client.start()).expire_time.seconds < minutes
    await client.write(0, 0)
    assert not cdn.store.open_uploads(f"assets/{digest(client.data)}")
    await client.write(0, 1)
    assert (await client.query()).expire_time.seconds < minutes
    await client.write(0, PART)
    assert (await client.query()).expire_time.seconds > minutes


async def test_dripping_uploads(world: World) -> None:
    """
    Slow streams hold at most their client's share of the memory and are ended with UPLOAD_TOO_SLOW, while uploads of
    other clients, small and large, succeed.
    """
    settings = {
        "MODELYARD_UPLOAD_MEMORY_BYTES": str(64 * MIB),
        "MODELYARD_UPLOAD_MEMORY_PER_CLIENT_BYTES": str(24 * MIB),
        "MODELYARD_UPLOAD_IDLE_SECONDS": "3",
    }
    async with serving_here(world, **settings) as cdn:  # type: ignore[arg-type] # settings alone
        drips = [asyncio.ensure_future(drip(cdn)) for _ in range(5)]
        data = some_bytes(13)
        assert (await cdn.stub.Upload(stream(header(data), chunk(0, data)), metadata=address(2), timeout=20)).size_bytes
        data = some_bytes(2 * PART)
        client = Client(cdn, data)
        client.name = (await start(cdn, 2, data)).name
        await client.stub.WriteUpload(client.messages(0), metadata=address(2), timeout=20)
        assert await download(cdn.stub, (await client.finish()).name) == (data, digest(data))
        reasons = await asyncio.wait_for(asyncio.gather(*drips), 60)
        assert reasons.count("UPLOAD_TOO_SLOW") >= 3
        assert set(reasons) <= {"UPLOAD_TOO_SLOW", "UPLOADS_BUSY"}
        await dripping_uploads(int(cdn.target.rpartition(":")[2]), 5, 2)


async def drip(cdn: Cdn) -> str:
    """
    Send one byte at a time until the stream is ended; returns the reason.
    """
    upload = await start(cdn, 1, some_bytes(2 * PART))

    def messages() -> Iterator[pb.WriteUploadRequest]:
        for offset in itertools.count():
            yield pb.WriteUploadRequest(name=upload.name, chunk=assets_pb2.Chunk(offset=offset, data=b"x"))
            time.sleep(0.5)

    # Not grpc.aio: when the service ends a call while a message is being written, it reports an error of its own.
    with grpc.insecure_channel(cdn.target) as channel:
        call = UploadServiceStub(channel).WriteUpload.future(messages(), metadata=address(1))
        while not call.done():
            await asyncio.sleep(0.05)
        error = call.exception()
    assert isinstance(error, grpc.RpcError)
    return failure(error).reason


async def test_fast_enough_goes_on() -> None:
    """
    A stream at the minimum rate never ends, and a slower one does, although it is never idle.
    """

    async def arriving(size: int) -> AsyncIterator[assets_pb2.UploadRequest]:
        for _ in range(40):
            await asyncio.sleep(0.02)
            yield chunk(0, bytes(size))

    patience = StreamLimits(idle=0.25, rate=1000)
    assert len([message async for message in UploadStream(arriving(1000), patience)]) == 40
    with pytest.raises(Aborted) as caught:
        _ = [message async for message in UploadStream(arriving(1), patience)]
    assert caught.value.reason == "UPLOAD_TOO_SLOW"


async def test_nobody_touches_anothers_upload(world: World, tmp_path: Path) -> None:
    """
    With access control, an upload belongs to the subject that started it: other subjects cannot query, write, finish or
    abort it, nor get URLs of its parts. Their uploads of the same bytes are separate, and both succeed.
    """
    data = some_bytes(PART + 1)
    request = pb.StartUploadRequest(sha256=digest(data), size_bytes=len(data))
    async with (
        access_controlled(world, tmp_path, "on") as service,
        service.as_("ann") as ann,
        service.as_("mallory") as mallory,
    ):
        upload = await ann.uploads.StartUpload(request)
        name = upload.name
        write = pb.WriteUploadRequest(name=name, chunk=assets_pb2.Chunk(offset=0, data=b"x"))

        async def one() -> AsyncIterator[pb.WriteUploadRequest]:
            yield write

        calls: list[Awaitable[object]] = [
            mallory.uploads.QueryUpload(pb.QueryUploadRequest(name=name)),
            mallory.uploads.WriteUpload(one()),
            mallory.uploads.CreateUploadUrls(pb.CreateUploadUrlsRequest(name=name, part_numbers=[1])),
            mallory.uploads.FinishUpload(pb.FinishUploadRequest(name=name)),
            mallory.uploads.AbortUpload(pb.AbortUploadRequest(name=name)),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                await call
            found = failure(caught.value)
            assert (found.code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "UPLOAD_OF_ANOTHER")
        other = await mallory.uploads.StartUpload(request)
        assert other.name != name
        file = tmp_path / "weights"
        file.write_bytes(data)
        first, second = await asyncio.gather(ann.upload_file(file), mallory.upload_file(file))
        assert first.sha256 == second.sha256 == digest(data)


async def test_two_that_push_one_file(world: World) -> None:
    """
    Two indistinguishable clients push the same new file concurrently: both succeed, and one waits while the other one
    writes.
    """
    # Not the shared service: its lease is so short that it may expire on a busy machine.
    async with serving_here(world) as cdn:
        data = some_bytes(PART + 2 * MIB)
        first, second = Client(cdn, data), Client(cdn, data)
        await first.start()
        go_on = asyncio.Event()

        async def slowly() -> AsyncIterator[pb.WriteUploadRequest]:
            async for message in first.messages(0):
                if message.chunk.offset == PART + MIB:
                    # It keeps sending meanwhile.
                    while not go_on.is_set():
                        await asyncio.sleep(0.05)
                        yield pb.WriteUploadRequest()
                yield message

        writing = asyncio.ensure_future(first.stub.WriteUpload(slowly(), timeout=60))
        await first.has_begun(data)
        assert (await second.start()).in_use
        with pytest.raises(grpc.RpcError) as caught:
            await second.write(0, 1)
        assert failure(caught.value).reason == "UPLOAD_IN_USE"
        go_on.set()
        assert (await writing).committed_bytes == len(data)
        assert not (await second.start()).in_use
        assert await first.finish() == await second.finish()
