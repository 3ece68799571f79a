"""
S3 is killed, or its disk is full: calls fail as documented, nothing incomplete is visible, and work continues once S3
has recovered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from services.cdn.tests.calls import MIB, digest, download, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn, World, serving_here
from services.cdn.tests.drills.conftest import Machine, patiently
from services.cdn.tests.uploading import PART, Client, put


@pytest.fixture(scope="module")
async def fragile(own_world: World) -> AsyncIterator[Cdn]:
    """
    A service on the S3 server that is killed.
    """
    async with serving_here(own_world) as running:
        yield running


async def unavailable(call: Coroutine[Any, Any, object]) -> None:
    """
    Fails unless *call* fails with ASSET_STORE_UNAVAILABLE.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await call
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ASSET_STORE_UNAVAILABLE")


async def is_not_there(cdn: Cdn, data: bytes) -> None:
    """
    Fails if *data* is visible as an asset.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await cdn.stub.GetAsset(assets_pb2.GetAssetRequest(name=f"assets/{digest(data)}"))
    assert failure(caught.value).reason == "ASSET_NOT_FOUND"


async def test_killed_in_the_middle_of_an_upload(fragile: Cdn, machine: Machine) -> None:
    """
    When S3 is killed during WriteUpload, it is UNAVAILABLE, and the upload resumes after the committed part once S3 is
    restarted.
    """
    client = Client(fragile, some_bytes(2 * PART + 3))
    await client.start()

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(0):
            if message.chunk.offset == PART:
                while (await client.query()).committed_bytes < PART:
                    await asyncio.sleep(0.05)
                await machine.kill()
            yield message
        # The response comes while the stream is open.
        await asyncio.sleep(60)

    async with machine.down():
        await unavailable(_awaited(client.stub.WriteUpload(messages(), timeout=50)))
        assert (await client.query()).committed_bytes == PART
    await is_not_there(fragile, client.data)
    await patiently(lambda: client.write(PART))
    asset = await client.finish()
    assert await download(fragile.stub, asset.name) == (client.data, asset.sha256)
    await client.left_nothing()


async def test_killed_in_the_middle_of_a_download(fragile: Cdn, machine: Machine) -> None:
    """
    When S3 is killed during a download, it is UNAVAILABLE, and a download from that offset succeeds once S3 is
    restarted.
    """
    data = some_bytes(24 * MIB)
    name = (await patiently(lambda: upload(fragile.stub, data))).name
    found = bytearray()

    async def read() -> None:
        async for message in fragile.stub.Download(assets_pb2.DownloadRequest(name=name), timeout=50):
            assert message.chunk.offset == len(found)
            if not found:
                await machine.kill()
            found.extend(message.chunk.data)

    async with machine.down():
        await unavailable(read())
    assert 0 < len(found) < len(data)
    rest, sha256 = await patiently(lambda: download(fragile.stub, name, len(found)))
    assert found + rest == data
    assert sha256 == digest(rest)


@pytest.mark.parametrize("size", [4 * MIB, PART + MIB], ids=["one piece", "parts"])
async def test_no_room_for_an_upload(fragile: Cdn, machine: Machine, size: int) -> None:
    """
    While S3's disk is full, an upload is UNAVAILABLE and leaves nothing; it succeeds once there is room.
    """
    data = some_bytes(size)
    await _while_full(machine, lambda: upload(fragile.stub, data))
    await is_not_there(fragile, data)
    assert not fragile.store.has(digest(data))
    asset = await patiently(lambda: upload(fragile.stub, data))
    assert await download(fragile.stub, asset.name) == (data, asset.sha256)
    await fragile.store.no_open_uploads(f"assets/{digest(data)}")


async def test_no_room_for_a_part(fragile: Cdn, machine: Machine) -> None:
    """
    While S3's disk is full, no further part is committed; the upload resumes once there is room.
    """
    client = Client(fragile, some_bytes(2 * PART))
    await client.start()
    await patiently(lambda: client.write(0, PART))
    await _while_full(machine, lambda: client.write(PART, 2 * PART))
    assert (await client.query()).committed_bytes == PART
    await is_not_there(fragile, client.data)
    await patiently(lambda: client.write(PART))
    asset = await client.finish()
    assert await download(fragile.stub, asset.name) == (client.data, asset.sha256)
    await client.left_nothing()


async def test_no_room_to_finish(fragile: Cdn, machine: Machine) -> None:
    """
    When S3's disk is full during FinishUpload, parts that were uploaded directly are not lost: finishing again gives
    the asset.
    """
    client = Client(fragile, some_bytes(PART + 5))
    await client.start()
    for number, url in enumerate((await patiently(lambda: client.urls([1, 2]))).urls):
        part = client.data[number * PART : (number + 1) * PART]
        assert await asyncio.to_thread(put, url.url, part) == 200
    await _while_full(machine, client.finish)
    await is_not_there(fragile, client.data)
    asset = await patiently(client.finish)
    assert await download(fragile.stub, asset.name) == (client.data, asset.sha256)
    await client.left_nothing()


async def _while_full(machine: Machine, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await asyncio.to_thread(machine.fill)
    try:
        await unavailable(call())
    finally:
        machine.empty()


async def _awaited(call: Any) -> object:
    return await call
