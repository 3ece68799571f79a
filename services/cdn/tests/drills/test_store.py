"""
S3 is killed, or its disk is full: the documented answers, nothing half there, and it goes on when S3 does.
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
from services.cdn.tests.conftest import Cdn, World, serving
from services.cdn.tests.drills.conftest import Machine, patiently
from services.cdn.tests.uploading import PART, Client, put


@pytest.fixture(scope="module")
async def fragile(own_world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cdn]:
    """
    A service on the S3 server that may be killed.
    """
    async with serving(own_world, tmp_path_factory.mktemp("cdn")) as running:
        yield running


async def unavailable(call: Coroutine[Any, Any, object]) -> None:
    """
    Fails unless *call* ends with what is said while S3 cannot be used.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await call
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ASSET_STORE_UNAVAILABLE")


async def is_not_there(cdn: Cdn, data: bytes) -> None:
    """
    Fails if anybody sees *data*.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await cdn.stub.GetAsset(assets_pb2.GetAssetRequest(name=f"assets/{digest(data)}"))
    assert failure(caught.value).reason == "ASSET_NOT_FOUND"


async def test_killed_in_the_middle_of_an_upload(fragile: Cdn, machine: Machine) -> None:
    """
    An upload whose S3 is killed is UNAVAILABLE, and goes on behind what was stored once S3 runs again.
    """
    client = Client(fragile, some_bytes(5 * PART + 3))
    await client.start()

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        async for message in client.messages(0, 4 * PART):
            if message.chunk.offset == 2 * PART:
                while (await client.query()).committed_bytes < 2 * PART:
                    await asyncio.sleep(0.05)
                await machine.kill()
            yield message
        # The answer comes while the stream is open.
        await asyncio.sleep(60)

    await unavailable(_awaited(client.stub.WriteUpload(messages(), timeout=50)))
    assert (await client.query()).committed_bytes == 2 * PART
    await machine.revive()
    await is_not_there(fragile, client.data)
    await patiently(lambda: client.write(2 * PART))
    asset = await client.finish()
    assert await download(fragile.stub, asset.name) == (client.data, asset.sha256)
    await client.left_nothing()


async def test_killed_in_the_middle_of_a_download(fragile: Cdn, machine: Machine) -> None:
    """
    A download whose S3 is killed is UNAVAILABLE, and goes on at its last byte once S3 runs again.
    """
    data = some_bytes(48 * MIB)
    name = (await patiently(lambda: upload(fragile.stub, data))).name
    found = bytearray()

    async def read() -> None:
        async for message in fragile.stub.Download(assets_pb2.DownloadRequest(name=name), timeout=50):
            assert message.chunk.offset == len(found)
            if not found:
                await machine.kill()
            found.extend(message.chunk.data)

    await unavailable(read())
    assert 0 < len(found) < len(data)
    await machine.revive()
    rest, sha256 = await patiently(lambda: download(fragile.stub, name, len(found)))
    assert found + rest == data
    assert sha256 == digest(rest)


@pytest.mark.parametrize("size", [4 * MIB, PART + MIB], ids=["one piece", "parts"])
async def test_no_room_for_an_upload(fragile: Cdn, machine: Machine, size: int) -> None:
    """
    While S3's disk is full an upload is UNAVAILABLE and leaves nothing; the same one works when there is room.
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
    While S3's disk is full no further part counts; the upload goes on where it stood when there is room.
    """
    client = Client(fragile, some_bytes(3 * PART))
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
    Parts that went straight to S3 are not lost when its disk is full at the end: finishing again gives the asset.
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
