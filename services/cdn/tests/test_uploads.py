"""
Resumable uploads: streamed through the service, and directly to S3.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceStub
from modelyard.error_details import explain
from services.cdn.tests.calls import MIB, digest, download, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn, World, serving_here
from services.cdn.tests.model_files import safetensors, tensor
from services.cdn.tests.uploading import PART, Client, put

OWNER = "namespaces/default/models/m/versions/1"


# Not one byte: it could be another test's asset.
@pytest.mark.parametrize("size", [0, 40, PART, PART + 1])
async def test_what_goes_in_comes_out(cdn: Cdn, size: int) -> None:
    """
    An upload that is started, written and finished gives the asset; finishing again returns the same.
    """
    client = Client(cdn, some_bytes(size), media_type="image/png")
    started = await client.start()
    assert (started.part_size_bytes, started.size_bytes) == (PART, size)
    assert started.committed_bytes == 0
    # The empty asset may have been stored by another test, and an upload of a stored asset accepts no bytes.
    if not started.complete:
        assert (await client.write(0)).committed_bytes == size
    asset = await client.finish()
    assert (asset.sha256, asset.size_bytes) == (digest(client.data), size)
    assert await download(cdn.stub, asset.name) == (client.data, asset.sha256)
    assert await client.finish() == asset
    await client.left_nothing()


async def test_a_damaged_chunk_costs_a_part(cdn: Cdn) -> None:
    """
    A damaged chunk ends the stream but not the upload: earlier parts are committed, and it resumes there.
    """
    data = some_bytes(PART + 2 * MIB)
    client = Client(cdn, data)
    await client.start()

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(0):
            message.chunk.crc32 = zlib.crc32(message.chunk.data)
            if message.chunk.offset == PART + MIB:
                message.chunk.data = bytes([message.chunk.data[0] ^ 1]) + message.chunk.data[1:]
                yield message
                # grpc.aio may report an error of its own for messages that are sent after the stream has ended.
                await asyncio.sleep(60)
            yield message

    with pytest.raises(grpc.RpcError) as caught:
        await client.stub.WriteUpload(messages(), timeout=60)
    assert (failure(caught.value).code, failure(caught.value).reason) == (grpc.StatusCode.ABORTED, "CHUNK_DAMAGED")
    assert await client.stands_at(PART) == PART
    await client.is_free()
    assert (await client.write(PART)).committed_bytes == len(data)
    assert (await client.finish()).sha256 == digest(data)


async def test_starting_twice_is_one_upload(cdn: Cdn) -> None:
    """
    Starting an upload with the same digest and owner finds the open one at its position; another owner gets its own.
    """
    data = some_bytes(PART + 9)
    client = Client(cdn, data, owner=OWNER)
    name = (await client.start()).name
    await client.write(0, PART + 3)
    again = Client(cdn, data, owner=OWNER)
    assert ((await again.start()).name, (await again.query()).committed_bytes) == (name, PART)
    assert (await Client(cdn, data).start()).name != name
    await again.write(PART)
    assert (await again.finish()).sha256 == digest(data)


async def test_what_is_there_needs_no_bytes(cdn: Cdn) -> None:
    """
    An upload of stored bytes is complete from the start, and finishing it gives the asset.
    """
    data = some_bytes(100)
    asset = await upload(cdn.stub, data)
    client = Client(cdn, data, owner=OWNER)
    started = await client.start()
    assert started.complete
    assert await client.finish() == asset


async def test_a_client_that_goes_away(cdn: Cdn) -> None:
    """
    After a cancelled write, a client resumes at the committed position, and sends less than two parts again.
    """
    client = Client(cdn, some_bytes(2 * PART + 2 * MIB))
    await client.start()
    sent, sending = asyncio.Event(), 2 * PART + MIB
    call = client.stub.WriteUpload(client.messages(0, sending, sent.set), timeout=60)
    await sent.wait()
    await client.stands_at(PART)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.is_free()
    stands = (await client.query()).committed_bytes
    assert stands >= PART
    assert sending - stands < 2 * PART
    assert stands % PART == 0
    await client.write(stands)
    asset = await client.finish()
    assert await download(cdn.stub, asset.name) == (client.data, asset.sha256)


async def test_s3_that_goes_away(cdn: Cdn) -> None:
    """
    When S3 becomes unavailable, the write is UNAVAILABLE, and resumes at the committed position once S3 is back.
    """
    client = Client(cdn, some_bytes(2 * PART))
    await client.start()
    await client.write(0, PART)

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(PART):
            if message.chunk.offset == PART + MIB:
                await cdn.link.down()
            await asyncio.sleep(0.01)
            yield message

    try:
        with pytest.raises(grpc.RpcError) as caught:
            await client.stub.WriteUpload(messages(), timeout=60)
        assert failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
    finally:
        await cdn.link.up()
    stands = (await client.query()).committed_bytes
    assert stands == PART
    await client.write(stands)
    assert (await client.finish()).sha256 == digest(client.data)


async def test_a_writer_that_was_overtaken(cdn: Cdn) -> None:
    """
    When a writer stalls, another one may take over: the older one is ABORTED, and the bytes are right.
    """
    client = Client(cdn, some_bytes(PART + 9))
    await client.start()
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(0):
            if message.chunk.offset == MIB:
                await go_on.wait()
            await asyncio.sleep(0.02)
            yield message

    first = asyncio.ensure_future(client.stub.WriteUpload(slowly(), timeout=60))
    await client.has_begun(client.data)
    await client.is_free()
    await client.write(0, PART)
    go_on.set()
    with pytest.raises(grpc.RpcError) as caught:
        await first
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.ABORTED,
        "UPLOAD_TAKEN_OVER",
    )
    await client.write((await client.query()).committed_bytes)
    assert (await client.finish()).sha256 == digest(client.data)


async def test_a_liar_that_was_overtaken(cdn: Cdn) -> None:
    """
    Bytes that a fenced-off writer sent for a part do not become part of the asset.
    """
    liar = Client(cdn, some_bytes(PART + 9))
    await liar.start()
    data, go_on = liar.data, asyncio.Event()
    liar.data = some_bytes(PART + 9)

    async def slowly() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in liar.messages(0, PART):
            if message.chunk.offset == MIB:
                await go_on.wait()
            yield message

    lying = asyncio.ensure_future(liar.stub.WriteUpload(slowly(), timeout=60))
    await liar.has_begun(data)
    honest = Client(cdn, data)
    await honest.start()
    await honest.is_free()
    await honest.write(0)
    go_on.set()
    with pytest.raises(grpc.RpcError):
        await lying
    try:
        # S3-compatible servers differ: either the first part of a number stays, or PARTS_REPLACED is reported.
        asset = await honest.finish()
    except grpc.RpcError as error:
        if failure(error).reason != "PARTS_REPLACED":
            raise
        assert not cdn.store.has(digest(data))
        await honest.start()
        await honest.write(0)
        asset = await honest.finish()
    assert await download(cdn.stub, asset.name) == (data, asset.sha256)


async def test_a_liar_about_its_header_that_was_overtaken(cdn: Cdn) -> None:
    """
    A fenced-off writer with an invalid safetensors header is rejected, and the upload stays that of the newer writer.
    """
    client = Client(cdn, some_bytes(PART + 9))
    await client.start()
    data, go_on = client.data, asyncio.Event()
    client.data = safetensors({"a": tensor(0, 4, [2])}, PART + 9)

    async def slowly() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(0, PART):
            if message.chunk.offset == MIB:
                await go_on.wait()
            yield message

    lying = asyncio.ensure_future(client.stub.WriteUpload(slowly(), timeout=60))
    await client.has_begun(data)
    honest = client.on(cdn)
    honest.data = data
    await honest.is_free()
    await honest.write(0, PART)
    go_on.set()
    with pytest.raises(grpc.RpcError) as caught:
        await lying
    assert failure(caught.value).reason == "SAFETENSORS_INVALID"
    await honest.write(PART)
    assert (await honest.finish()).sha256 == digest(data)


async def test_a_gap(cdn: Cdn) -> None:
    """
    A chunk that does not begin at the committed position, before or after it, is OUT_OF_RANGE.
    """
    client = Client(cdn, some_bytes(PART + 99))
    await client.start()
    await client.write(0, PART)
    for offset in (0, PART - 1, PART + 1, PART + 98):
        # A failed write releases its lease in the background.
        await client.is_free()
        with pytest.raises(grpc.RpcError) as caught:
            await client.write(offset, offset + 1)
        assert (failure(caught.value).code, failure(caught.value).reason) == (
            grpc.StatusCode.OUT_OF_RANGE,
            "OFFSET_GAP",
        )
    assert (await client.query()).committed_bytes == PART


async def test_bytes_past_the_end(cdn: Cdn) -> None:
    """
    Bytes past the declared size are rejected, and errors report the received position.
    """
    client = Client(cdn, some_bytes(10))
    await client.start()
    await client.write(0)
    client.data += b"x"
    with pytest.raises(grpc.RpcError) as caught:
        await client.write(10)
    found = failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, {"chunk.data"})
    with pytest.raises(grpc.RpcError) as caught:
        await client.write(3)
    assert (explain(caught.value).metadata or {})["received_bytes"] == "10"
    assert (await client.finish()).size_bytes == 10


async def test_addresses_keep_an_upload(cdn: Cdn) -> None:
    """
    Creating presigned URLs restarts the TTL, since the service does not see the bytes.
    """
    client = Client(cdn, some_bytes(10))
    started = await client.start()
    await client.urls([1])
    assert (await client.query()).expire_time.ToNanoseconds() > started.expire_time.ToNanoseconds()


async def test_finishing_too_early(cdn: Cdn) -> None:
    """
    Finishing an incomplete upload is FAILED_PRECONDITION, and the upload can continue.
    """
    client = Client(cdn, some_bytes(PART + 1))
    await client.start()
    for end in (0, PART):
        if end:
            await client.write(0, end)
        with pytest.raises(grpc.RpcError) as caught:
            await client.finish()
        assert failure(caught.value).reason == "UPLOAD_INCOMPLETE"
    await client.write(PART)
    assert (await client.finish()).sha256 == digest(client.data)


@pytest.mark.parametrize("direct", [False, True])
async def test_a_wrong_digest(cdn: Cdn, direct: bool) -> None:
    """
    Bytes with another digest than declared are INVALID_ARGUMENT, however they were sent: nothing is registered or left
    behind.
    """
    size = PART + 100 if direct else 100
    data, lie = some_bytes(size), some_bytes(size)
    client = Client(cdn, data)
    await client.start()
    client.data = lie
    if direct:
        urls = (await client.urls([1, 2])).urls
        for url, part in zip(urls, (lie[:PART], lie[PART:]), strict=True):
            assert await asyncio.to_thread(put, url.url, part) == 200
    else:
        await client.write(0)
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "DIGEST_MISMATCH",
    )
    await client.left_nothing()
    with pytest.raises(grpc.RpcError) as caught:
        await client.query()
    assert failure(caught.value).reason == "UPLOAD_NOT_FOUND"
    assert not cdn.store.has(digest(data))
    assert not cdn.store.has(digest(lie))


async def test_straight_to_s3(cdn: Cdn) -> None:
    """
    Parts may be sent to S3 directly in any order; QueryUpload reports the contiguous ones, and finishing verifies them.
    """
    data = some_bytes(2 * PART + 11)
    client = Client(cdn, data)
    await client.start()
    urls = (await client.urls([3, 1, 2])).urls
    assert [url.part_number for url in urls] == [3, 1, 2]
    parts = {1: data[:PART], 2: data[PART : 2 * PART], 3: data[2 * PART :]}
    for url, committed in zip(urls, (0, PART, len(data)), strict=True):
        assert await asyncio.to_thread(put, url.url, parts[url.part_number]) == 200
        standing = await client.query()
        assert (standing.committed_bytes, standing.direct) == (committed, True)
    asset = await client.finish()
    assert await download(cdn.stub, asset.name) == (data, asset.sha256)
    await client.left_nothing()


async def test_parts_go_where_clients_reach_the_store(world: World) -> None:
    """
    A part's URL has the public endpoint, and its signature is valid for that host only.
    """
    public = world.s3.endpoint.replace("127.0.0.1", "localhost")
    async with serving_here(world, MODELYARD_S3_PUBLIC_ENDPOINT=public) as cdn:
        client = Client(cdn, some_bytes(100))
        await client.start()
        url = (await client.urls([1])).urls[0].url
        assert url.startswith(f"{public}/")
        assert await asyncio.to_thread(put, url.replace("localhost", "127.0.0.1"), client.data) == 403
        assert await asyncio.to_thread(put, url, client.data) == 200
        assert (await client.finish()).sha256 == digest(client.data)


async def test_a_part_of_another_size(cdn: Cdn) -> None:
    """
    A part that was sent to S3 directly with another length does not count.
    """
    data = some_bytes(PART + 11)
    client = Client(cdn, data)
    await client.start()
    urls = (await client.urls([1, 2])).urls
    await asyncio.to_thread(put, urls[0].url, data[:PART])
    await asyncio.to_thread(put, urls[1].url, data[PART:] + b"x")
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    assert failure(caught.value).reason == "UPLOAD_INCOMPLETE"
    assert await asyncio.to_thread(put, urls[1].url, data[PART:]) == 200
    assert (await client.finish()).sha256 == digest(data)


async def test_one_way_or_the_other(cdn: Cdn) -> None:
    """
    The bytes of an upload are streamed or sent to S3 directly: the first ones decide.
    """
    direct, streamed = Client(cdn, some_bytes(100)), Client(cdn, some_bytes(100))
    await direct.start()
    await direct.urls([1])
    with pytest.raises(grpc.RpcError) as caught:
        await direct.write(0)
    assert failure(caught.value).reason == "UPLOAD_DIRECT"
    await streamed.start()
    await streamed.write(0)
    with pytest.raises(grpc.RpcError) as caught:
        await streamed.urls([1])
    assert failure(caught.value).reason == "UPLOAD_STREAMED"


async def test_two_that_finish_at_once(cdn: Cdn) -> None:
    """
    Of two concurrent FinishUpload calls one may be UPLOAD_FINISHING; retried, both return the asset.
    """
    client = Client(cdn, some_bytes(1000))
    await client.start()
    await client.write(0)

    async def finish() -> assets_pb2.Asset:
        while True:
            try:
                return await client.finish()
            except grpc.RpcError as error:
                if failure(error).reason != "UPLOAD_FINISHING":
                    raise
                await asyncio.sleep(0.05)

    first, second = await asyncio.gather(finish(), finish())
    assert first == second


@pytest.mark.parametrize("direct", [False, True])
async def test_parts_that_are_gone(cdn: Cdn, direct: bool) -> None:
    """
    An upload whose multipart upload no longer exists in the object store is NOT_FOUND, and can be started anew.
    """
    client = Client(cdn, some_bytes(100))
    await client.start()
    await (client.urls([1]) if direct else client.write(0))
    of = (f"staging/{client.name.removeprefix('uploads/')}", f"assets/{digest(client.data)}")
    found = cdn.store.client.list_multipart_uploads(Bucket=cdn.store.bucket)["Uploads"]
    for each in found:
        if each["Key"] in of:
            bucket, key, upload_id = cdn.store.bucket, each["Key"], each["UploadId"]
            cdn.store.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    gone = failure(caught.value)
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
    assert (await client.start()).committed_bytes == 0
    await client.write(0)
    assert (await client.finish()).sha256 == digest(client.data)


async def test_giving_up(cdn: Cdn) -> None:
    """
    An aborted upload leaves nothing, and aborting again is no error.
    """
    client = Client(cdn, some_bytes(PART + 9))
    await client.start()
    await client.write(0, PART)
    for _ in range(2):
        await client.stub.AbortUpload(pb.AbortUploadRequest(name=client.name))
    await client.left_nothing()
    for call in (client.query, client.finish, lambda: client.write(PART, PART + 1)):
        with pytest.raises(grpc.RpcError) as caught:
            await call()
        assert failure(caught.value).reason == "UPLOAD_NOT_FOUND"


async def test_abandoned_uploads(world: World) -> None:
    """
    An abandoned upload expires and leaves nothing in S3, however its bytes were sent.
    """
    async with serving_here(world, MODELYARD_UPLOAD_TTL_SECONDS="1.5", MODELYARD_SWEEP_EVERY_SECONDS="0.2") as cdn:
        streamed, direct = Client(cdn, some_bytes(PART + 9)), Client(cdn, some_bytes(1000))
        await streamed.start()
        await streamed.write(0, PART)
        await direct.start()
        await direct.urls([1])
        await cdn.store.no_open_uploads("", patience=20)
        for client in (streamed, direct):
            with pytest.raises(grpc.RpcError) as caught:
                await client.query()
            assert failure(caught.value).reason == "UPLOAD_NOT_FOUND"


BAD_STARTS = [
    ({"sha256": "x"}, {"sha256"}),
    ({"size_bytes": -1}, {"size_bytes"}),
    ({"media_type": "?"}, {"media_type"}),
    ({"owner": "me"}, {"owner"}),
    ({"owner": "static/../x"}, {"owner"}),
    ({"owner": "static/a\0b"}, {"owner"}),
    ({"owner": "namespaces/n/models/m/versions/0"}, {"owner"}),
]


@pytest.mark.parametrize(("change", "fields"), BAD_STARTS)
async def test_bad_starts(cdn: Cdn, change: dict[str, object], fields: set[str]) -> None:
    """
    An invalid StartUpload is rejected with the names of its fields.
    """
    request = pb.StartUploadRequest(sha256=digest(b"x"), size_bytes=1)
    for name, value in change.items():
        setattr(request, name, value)
    with pytest.raises(grpc.RpcError) as caught:
        await UploadServiceStub(cdn.channel).StartUpload(request)
    assert (failure(caught.value).code, failure(caught.value).fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


async def test_names_with_four_byte_characters(cdn: Cdn) -> None:
    """
    The path of a static file may have any character, including those of four bytes in UTF-8.
    """
    client = Client(cdn, some_bytes(3), owner="static/模型/🦜.bin")
    assert (await client.start()).owner == "static/模型/🦜.bin"
