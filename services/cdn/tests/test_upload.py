"""
One-shot uploads: verified before they are visible, stored once, and nothing is left of failed ones.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import (
    MIB,
    Stub,
    chunk,
    chunks,
    digest,
    download,
    failure,
    header,
    some_bytes,
    stream,
    upload,
)
from services.cdn.tests.conftest import Store

SIZES = [0, 1, 512 * 1024, 512 * 1024 + 1, 8 * MIB, 8 * MIB + 1, 16 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
async def test_what_goes_in_comes_out(stub: Stub, size: int) -> None:
    """
    An asset has the uploaded bytes, digest, size and media type, in one part or several.
    """
    data = some_bytes(size)
    asset = await upload(stub, data, "text/plain; charset=utf-8")
    assert (asset.name, asset.sha256) == (f"assets/{digest(data)}", digest(data))
    assert asset.size_bytes == size
    if size:  # the empty asset exists once, with the media type of its first upload
        assert asset.media_type == "text/plain; charset=utf-8"
        assert abs(asset.create_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert await download(stub, asset.name) == (data, digest(data))


async def test_media_type_may_be_left_out(stub: Stub) -> None:
    """
    The default media type is application/octet-stream.
    """
    assert (await upload(stub, some_bytes(10))).media_type == "application/octet-stream"


async def test_stored_bytes_are_not_sent_again(stub: Stub) -> None:
    """
    The header of a stored asset is answered with the asset, unchanged, before any bytes are sent.
    """
    data = some_bytes(3 * MIB)
    first = await upload(stub, data, "image/png")
    sent = 0

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        nonlocal sent
        yield header(data, media_type="text/html")
        await asyncio.sleep(60)
        sent += 1
        yield chunk(0, data)

    assert await stub.Upload(messages(), timeout=30) == first
    assert sent == 0


# Not one byte: it could be another test's asset.
@pytest.mark.parametrize("size", [40, 3 * MIB, 9 * MIB])
async def test_wrong_digest(stub: Stub, store: Store, size: int) -> None:
    """
    Bytes with another digest than declared are rejected: neither digest becomes visible and nothing is left behind.
    """
    data, declared = some_bytes(size), digest(some_bytes(8))
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(header(data, sha256=declared), *chunks(data)), timeout=60)
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
    assert not store.has(declared)
    assert not store.has(digest(data))
    await store.no_open_uploads(f"assets/{declared}")


@pytest.mark.parametrize("size", [0, 100, 3 * MIB, 9 * MIB])
async def test_stream_that_ends_early(stub: Stub, store: Store, size: int) -> None:
    """
    A stream that ends before all declared bytes were received stores nothing.
    """
    data = some_bytes(size + 40)  # one byte could be another test's asset
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(header(data), *chunks(data[:size])), timeout=60)
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SIZE_MISMATCH")
    assert not store.has(digest(data))
    await store.no_open_uploads(f"assets/{digest(data)}")


async def test_somebody_else_aborts_it(stub: Stub, store: Store) -> None:
    """
    An upload whose multipart upload was aborted externally, for instance by a lifecycle rule, is ABORTED and may be
    retried.
    """
    data = some_bytes(9 * MIB)
    key, listed = f"assets/{digest(data)}", store.client.list_multipart_uploads

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(data)
        *most, last = chunks(data)
        for message in most:
            yield message
        while not (found := listed(Bucket=store.bucket, Prefix=key).get("Uploads")):
            await asyncio.sleep(0.05)
        store.client.abort_multipart_upload(Bucket=store.bucket, Key=key, UploadId=found[0]["UploadId"])
        yield last

    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(messages(), timeout=60)
    error = failure(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "ASSET_GOING")


async def test_more_bytes_than_declared(stub: Stub, store: Store) -> None:
    """
    Bytes past the declared size are rejected, although the digest of the first ones is right.
    """
    data = some_bytes(100)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(header(data), chunk(0, data), chunk(100, b"x")), timeout=60)
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SIZE_MISMATCH")
    assert not store.has(digest(data))


async def test_stored_bytes_of_another_size(stub: Stub) -> None:
    """
    A header with the digest of a stored asset and another size is rejected.
    """
    asset = await upload(stub, some_bytes(10))
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(header(sha256=asset.sha256, size=11)), timeout=60)
    assert failure(caught.value).reason == "SIZE_MISMATCH"


@pytest.mark.parametrize("sent", [1, 3, 10])
async def test_client_that_goes_away(stub: Stub, store: Store, sent: int) -> None:
    """
    A cancelled upload leaves nothing behind, whether or not its first part was sent to S3.
    """
    data = some_bytes(20 * MIB)
    under_way = asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(data)
        for message in chunks(data)[:sent]:
            yield message
        under_way.set()
        await asyncio.sleep(60)

    call = stub.Upload(messages(), timeout=60)
    await under_way.wait()
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await store.no_open_uploads(f"assets/{digest(data)}")
    assert not store.has(digest(data))


async def test_deadline_in_the_middle(stub: Stub, store: Store) -> None:
    """
    An upload that exceeds its deadline leaves nothing behind.
    """
    data = some_bytes(20 * MIB)

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(data)
        for message in chunks(data)[:10]:
            yield message
        await asyncio.sleep(60)

    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(messages(), timeout=2)
    assert failure(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await store.no_open_uploads(f"assets/{digest(data)}")
    assert not store.has(digest(data))


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_many_uploads_of_the_same_bytes(stub: Stub, store: Store, size: int) -> None:
    """
    Concurrent uploads of the same bytes all succeed; the bytes are stored once and no multipart upload stays open.
    """
    data = some_bytes(size)
    assets = await asyncio.gather(*(upload(stub, data) for _ in range(3)))
    assert all(asset == assets[0] for asset in assets)
    assert await download(stub, assets[0].name) == (data, digest(data))
    await store.no_open_uploads(f"assets/{digest(data)}")


async def test_an_empty_chunk_is_passed_over(stub: Stub) -> None:
    """
    A chunk without bytes is ignored, whatever its offset.
    """
    data = some_bytes(10)
    messages = [header(data), chunk(0, b""), chunk(0, data[:4]), chunk(99, b""), chunk(4, data[4:]), chunk(10, b"")]
    assert (await stub.Upload(stream(*messages), timeout=30)).sha256 == digest(data)


async def test_a_damaged_chunk(stub: Stub, store: Store) -> None:
    """
    A chunk with a wrong CRC-32 is rejected; with the right one, or none, it is accepted.
    """
    data = some_bytes(10)
    damaged = chunk(0, data)
    damaged.chunk.crc32 = zlib.crc32(data) ^ 1
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(header(data), damaged), timeout=30)
    assert (failure(caught.value).code, failure(caught.value).reason) == (grpc.StatusCode.ABORTED, "CHUNK_DAMAGED")
    assert not store.has(digest(data))
    damaged.chunk.crc32 = zlib.crc32(data)
    assert (await stub.Upload(stream(header(data), damaged), timeout=30)).sha256 == digest(data)


GOOD = some_bytes(8)
BAD_STREAMS = {
    "no message": ([], {"header"}),
    "an empty message": ([pb.UploadRequest()], {"header"}),
    "a chunk before the header": ([chunk(0, GOOD)], {"header"}),
    "a short digest": ([header(GOOD, sha256="ab")], {"header.sha256"}),
    "no digest": ([header(GOOD, sha256="")], {"header.sha256"}),
    "an upper-case digest": ([header(GOOD, sha256=digest(GOOD).upper())], {"header.sha256"}),
    "a digest with a newline": ([header(GOOD, sha256=digest(GOOD) + "\n")], {"header.sha256"}),
    "a digest in full-width digits": ([header(GOOD, sha256="０" * 64)], {"header.sha256"}),
    "a long digest": ([header(GOOD, sha256="0" * 3_000_000)], {"header.sha256"}),
    "a negative size": ([header(GOOD, size=-1)], {"header.size_bytes"}),
    "an absurd size": ([header(GOOD, size=2**62)], {"header.size_bytes"}),
    "a media type without a slash": ([header(GOOD, media_type="text")], {"header.media_type"}),
    "a media type with a line break": ([header(GOOD, media_type="text/plain\r\nX-A: b")], {"header.media_type"}),
    "a media type beyond ASCII": ([header(GOOD, media_type="text/plaïn")], {"header.media_type"}),
    "a long media type": ([header(GOOD, media_type="a/" + "b" * 300)], {"header.media_type"}),
    "all of it wrong": (
        [header(GOOD, sha256="x", size=-5, media_type="?")],
        {"header.sha256", "header.size_bytes", "header.media_type"},
    ),
    "a second header": ([header(GOOD), header(GOOD)], {"header"}),
    "an empty second message": ([header(GOOD), pb.UploadRequest()], {"chunk"}),
    "a chunk that is too large": ([header(bytes(5 * MIB)), chunk(0, bytes(4 * MIB + 1))], {"chunk.data"}),
    "a gap": ([header(GOOD), chunk(1, GOOD[1:])], {"chunk.offset"}),
    "a chunk sent twice": ([header(GOOD), chunk(0, GOOD[:4]), chunk(0, GOOD[:4])], {"chunk.offset"}),
    "a negative offset": ([header(GOOD), chunk(-1, GOOD)], {"chunk.offset"}),
    "chunks out of order": ([header(GOOD), chunk(4, GOOD[4:]), chunk(0, GOOD[:4])], {"chunk.offset"}),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
async def test_bad_streams(stub: Stub, store: Store, case: str) -> None:
    """
    An invalid stream is INVALID_ARGUMENT, names the invalid fields, and stores nothing.
    """
    messages, fields = BAD_STREAMS[case]
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(stream(*messages), timeout=30)
    found = failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)
    assert found.reason == ("OFFSET_GAP" if fields == {"chunk.offset"} else "INVALID_FIELDS")
    assert not store.has(digest(GOOD))
