"""
Clients that stall during an upload lose their memory to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from services.cdn.service.upload_streams import StreamLimits, UploadStream
from services.cdn.tests.calls import MIB, chunk, chunks, digest, download, failure, header, some_bytes, stream, upload
from services.cdn.tests.conftest import World, serving, serving_here
from services.cdn.tests.uploading import PART, Client
from services.chassis.errors import Aborted, DeadlineExceeded

T = TypeVar("T")
# The budget holds four of them.
MEMORY, STALLING = 32 * MIB, 4


async def stalling(messages: AsyncIterator[T]) -> AsyncIterator[T]:
    """
    *messages*, then nothing more without ending.
    """
    async for message in messages:
        yield message
    await asyncio.sleep(60)


@pytest.mark.parametrize("host", ["auto", "grpcio"])
async def test_streams_that_stall(world: World, tmp_path: Path, host: str) -> None:
    """
    Streams without a chunk for some time are ABORTED, and their memory becomes available to others; the committed part
    of a resumable upload stays, and the upload resumes there.
    """
    settings = {"MODELYARD_UPLOAD_IDLE_SECONDS": "2", "MODELYARD_UPLOAD_MEMORY_BYTES": str(MEMORY)}
    own = serving_here(world, **settings) if host == "grpcio" else serving(world, tmp_path, **settings)  # type: ignore[arg-type] # settings alone
    async with own as cdn:
        client = Client(cdn, some_bytes(2 * PART))
        await client.start()
        writing = client.stub.WriteUpload(stalling(client.messages(0, PART + 1)))
        calls: list[asyncio.Future[object]] = [asyncio.ensure_future(writing)]
        for _ in range(STALLING - 1):
            data = some_bytes(2 * PART)
            calls.append(asyncio.ensure_future(cdn.stub.Upload(stalling(stream(header(data), *chunks(data)[:1])))))
        done, _ = await asyncio.wait(calls, timeout=20)
        assert len(done) == len(calls)
        for call in calls:
            error = call.exception()
            assert isinstance(error, grpc.RpcError)
            assert (failure(error).code, failure(error).reason) == (grpc.StatusCode.ABORTED, "UPLOAD_IDLE")
        # Fails while the stalled streams hold their parts.
        data = some_bytes(2 * PART + 1)
        assert await download(cdn.stub, (await upload(cdn.stub, data)).name) == (data, digest(data))
        # The part that was being sent when the stream ended is committed in the background.
        assert await client.stands_at(PART) == PART
        await client.is_free()
        await client.write(PART)
        assert (await client.finish()).sha256 == digest(client.data)


async def test_who_is_held_back_is_not_idle() -> None:
    """
    Time in which the client waits for the service does not count as idle.
    """
    messages, taken = chunks(b"abc", 1), 0

    async def take() -> None:
        nonlocal taken
        async for _ in UploadStream(stalling(stream(*messages)), StreamLimits(0.05)):
            await asyncio.sleep(0.1)
            taken += 1

    with pytest.raises(Aborted):
        await take()
    assert taken == len(messages)


async def test_streams_that_take_too_long() -> None:
    """
    A stream with a maximum duration ends with it, whatever bytes arrive.
    """

    async def some() -> AsyncIterator[assets_pb2.UploadRequest]:
        while True:
            await asyncio.sleep(0.01)
            yield chunk(0, b"x")

    async def read() -> None:
        async for _ in UploadStream(some(), StreamLimits(60), longest=0.2):
            pass

    with pytest.raises(DeadlineExceeded) as caught:
        await asyncio.wait_for(read(), 10)
    assert caught.value.reason == "UPLOAD_TOO_LONG"


async def test_messages_without_bytes() -> None:
    """
    Messages without bytes do not keep a stream alive.
    """

    async def nothing() -> AsyncIterator[pb.WriteUploadRequest]:
        while True:
            await asyncio.sleep(0.01)
            yield pb.WriteUploadRequest()

    async def read() -> None:
        async for _ in UploadStream(nothing(), StreamLimits(0.05)):
            pass

    with pytest.raises(Aborted):
        await asyncio.wait_for(read(), 10)
