"""
Downloads: ranges, backpressure, and interruptions of the link to S3.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.service.rendering import serialized_chunk
from services.cdn.tests.calls import MIB, Stub, digest, download, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn

SIZE = 3 * MIB + 11


@pytest.fixture(scope="module")
async def asset(stub: Stub) -> tuple[str, bytes]:
    """
    The name and the bytes of an asset.
    """
    data = some_bytes(SIZE)
    return (await upload(stub, data)).name, data


@pytest.mark.parametrize(
    ("offset", "limit"),
    [
        (0, 0),
        (0, 1),
        (1, 0),
        (7, 100),
        (512 * 1024, 512 * 1024),
        (SIZE - 1, 0),
        (SIZE - 1, 99),
        (5, 2**62),
        (SIZE, 0),
        (SIZE, 5),
    ],
)
async def test_parts(stub: Stub, asset: tuple[str, bytes], offset: int, limit: int) -> None:
    """
    Offset and limit give exactly that range, an empty one if the offset is the end, and the trailer has its digest.
    """
    name, data = asset
    wanted = data[offset : offset + limit] if limit else data[offset:]
    assert await download(stub, name, offset, limit) == (wanted, digest(wanted))


async def test_without_a_digest(stub: Stub, asset: tuple[str, bytes]) -> None:
    """
    Clients that verify by other means can download without the digest.
    """
    name, data = asset
    call = stub.Download(pb.DownloadRequest(name=name, without_digest=True), timeout=60)
    assert b"".join([message.chunk.data async for message in call]) == data
    assert "x-sha256" not in dict(await call.trailing_metadata() or ())


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 512 * 1024])
@pytest.mark.parametrize("offset", [0, 1, 2**62])
def test_chunks_are_what_protobuf_makes_of_them(offset: int, size: int) -> None:
    """
    A chunk that is serialised by hand equals protobuf's message.
    """
    data = some_bytes(size)
    found = pb.DownloadResponse.FromString(serialized_chunk(offset, data))
    assert found == pb.DownloadResponse(chunk=pb.Chunk(offset=offset, data=data))


async def test_nothing_of_nothing(stub: Stub) -> None:
    """
    Downloading the empty asset is a stream without messages, for any limit.
    """
    name = (await upload(stub, b"")).name
    for limit in (0, 1):
        assert await download(stub, name, 0, limit) == (b"", digest(b""))


@pytest.mark.parametrize("offset", [SIZE + 1, 2**62])
async def test_past_the_end(stub: Stub, asset: tuple[str, bytes], offset: int) -> None:
    """
    An offset past the end is OUT_OF_RANGE.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await download(stub, asset[0], offset)
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_PAST_END")


@pytest.mark.parametrize("offset", [0, 1])
async def test_no_such_asset(stub: Stub, offset: int) -> None:
    """
    An asset that does not exist is NOT_FOUND.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await download(stub, f"assets/{digest(some_bytes(9))}", offset)
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")


BAD_REQUESTS = {
    "no name": (pb.DownloadRequest(), {"name"}),
    "another collection": (pb.DownloadRequest(name=f"blobs/{'0' * 64}"), {"name"}),
    "a path": (pb.DownloadRequest(name=f"assets/../assets/{'0' * 64}"), {"name"}),
    "an upper-case digest": (pb.DownloadRequest(name=f"assets/{'A' * 64}"), {"name"}),
    "a newline": (pb.DownloadRequest(name=f"assets/{'0' * 64}\n"), {"name"}),
    "a huge name": (pb.DownloadRequest(name="assets/" + "0" * 3_000_000), {"name"}),
    "a negative offset": (pb.DownloadRequest(name=f"assets/{'0' * 64}", offset=-1), {"offset"}),
    "a negative limit": (pb.DownloadRequest(name=f"assets/{'0' * 64}", limit=-1), {"limit"}),
    "both negative": (pb.DownloadRequest(name=f"assets/{'0' * 64}", offset=-1, limit=-1), {"offset", "limit"}),
    "all of it wrong": (pb.DownloadRequest(name="x", offset=-1, limit=-1), {"name", "offset", "limit"}),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
async def test_bad_requests(stub: Stub, case: str) -> None:
    """
    An invalid request is INVALID_ARGUMENT and names every invalid field.
    """
    request, fields = BAD_REQUESTS[case]
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in stub.Download(request, timeout=30):
            pass
    found = failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


async def test_slow_reader(cdn: Cdn) -> None:
    """
    A client that does not read slows S3 down: only as much is read from S3 as the sockets and a few pieces hold.
    """
    # Two pieces in the reader and two in the host, 1 MiB in Envoy, the windows of the link and of the client.
    most = _socket_bytes() + 4 * MIB
    name = (await upload(cdn.stub, some_bytes(most + 4 * MIB))).name
    # The client's window stays at 64 KiB: otherwise most bytes are in its own socket, which no service can limit.
    async with grpc.aio.insecure_channel(cdn.target, [("grpc.http2.bdp_probe", 0)]) as channel:
        before = cdn.link.received
        call = Stub(channel).Download(pb.DownloadRequest(name=name), timeout=60)
        assert isinstance(await call.read(), pb.DownloadResponse)
        seen = -1
        while seen != cdn.link.received:
            seen = cdn.link.received
            await asyncio.sleep(0.2)
        assert seen - before < most
        call.cancel()


def _socket_bytes() -> int:
    """
    The maximum size of a connection's two socket buffers on this system: sent by one side and not read by the other.
    """
    limits = [Path(f"/proc/sys/net/ipv4/tcp_{way}mem") for way in "rw"]
    if not all(limit.exists() for limit in limits):
        return 16 * MIB
    return sum(int(limit.read_text().split()[2]) for limit in limits)


async def test_connection_that_breaks(cdn: Cdn) -> None:
    """
    A connection to S3 that breaks during a download is reopened at its position, invisible for the client.
    """
    data = some_bytes(8 * MIB)
    name, wanted = (await upload(cdn.stub, data)).name, data[3 : 3 + 7 * MIB]
    cdn.link.break_after = cdn.link.received + 3 * MIB
    assert await download(cdn.stub, name, 3, 7 * MIB) == (wanted, digest(wanted))
    assert cdn.link.break_after is None


async def test_s3_that_goes_away(cdn: Cdn) -> None:
    """
    When S3 becomes unavailable, the stream ends with UNAVAILABLE, and the client resumes at its last byte once S3 is
    back.
    """
    data = some_bytes(24 * MIB)
    name = (await upload(cdn.stub, data)).name
    found = bytearray()

    async def read() -> None:
        async for message in cdn.stub.Download(pb.DownloadRequest(name=name), timeout=60):
            found.extend(message.chunk.data)
            if len(found) <= MIB:
                await cdn.link.down()

    with pytest.raises(grpc.RpcError) as caught:
        await read()
    assert failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
    assert 0 < len(found) < len(data)
    await cdn.link.up()
    rest, _ = await download(cdn.stub, name, len(found))
    assert bytes(found) + rest == data


async def test_many_readers_that_go_away(cdn: Cdn) -> None:
    """
    Cancelled downloads leave no connection to S3 open.
    """
    name = (await upload(cdn.stub, some_bytes(16 * MIB))).name
    cdn.link.cut()
    await asyncio.sleep(0.2)
    before = cdn.link.open
    for _ in range(8):
        call = cdn.stub.Download(pb.DownloadRequest(name=name), timeout=60)
        await call.read()
        call.cancel()
    for _ in range(100):
        # An idle connection may stay for the next request.
        if cdn.link.open <= before + 1:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail(f"{cdn.link.open} connections, {before} before")
    data = some_bytes(MIB)
    assert await download(cdn.stub, (await upload(cdn.stub, data)).name) == (data, digest(data))
