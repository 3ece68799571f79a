"""
S3 becomes unavailable and recovers: fast failures with clear errors, and no restart.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import delivery_pb2
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from modelyard.cdn.v1.delivery_pb2_grpc import DeliveryServiceStub
from services.cdn.tests.calls import MIB, chunk, chunks, digest, download, failure, header, some_bytes, stream, upload
from services.cdn.tests.conftest import Cdn


async def test_every_call_while_s3_is_away(cdn: Cdn) -> None:
    """
    Calls that need S3 are UNAVAILABLE with a retry delay, well within their deadline, and work again once S3 does.
    Metadata is served throughout.
    """
    data, fresh = some_bytes(100), some_bytes(100)
    asset = await upload(cdn.stub, data)
    await cdn.link.down()
    try:
        calls: list[Awaitable[object]] = [
            cdn.stub.Upload(stream(header(fresh), chunk(0, fresh)), timeout=30),
            cdn.stub.Download(pb.DownloadRequest(name=asset.name), timeout=30).read(),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert await cdn.stub.GetAsset(pb.GetAssetRequest(name=asset.name), timeout=30) == asset
        missing = await cdn.stub.FindMissing(pb.FindMissingRequest(sha256=[asset.sha256, digest(fresh)]), timeout=30)
        assert list(missing.sha256) == [digest(fresh)]
    finally:
        await cdn.link.up()
    for answer in answers:
        assert isinstance(answer, grpc.RpcError)
        found = failure(answer)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ASSET_STORE_UNAVAILABLE")
        assert found.retry_after == 1.0
    assert await download(cdn.stub, (await upload(cdn.stub, fresh)).name) == (fresh, digest(fresh))


async def test_s3_goes_away_in_the_middle_of_an_upload(cdn: Cdn) -> None:
    """
    An upload that loses S3 is UNAVAILABLE without waiting for the rest of the stream, and its multipart upload is
    aborted once S3 is back.
    """
    data = some_bytes(48 * MIB)
    loop = asyncio.get_running_loop()
    over = threading.Event()

    def messages() -> Iterator[pb.UploadRequest]:
        yield header(data)
        for place, message in enumerate(chunks(data)):
            if place == 10:
                while not cdn.store.parts(f"assets/{digest(data)}"):
                    time.sleep(0.05)
                asyncio.run_coroutine_threadsafe(cdn.link.down(), loop).result()
            if place == 40:
                over.wait(60)
            yield message

    def call() -> object:
        # Not grpc.aio, which reports INTERNAL in place of the service's status when it is writing a message while the
        # service ends the call (modelyard/transfer/attempts.py retries that).
        with grpc.insecure_channel(cdn.target) as channel:
            return AssetServiceStub(channel).Upload(messages(), timeout=60)

    try:
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(call)
        assert failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
    finally:
        over.set()
        await cdn.link.up()
    assert not cdn.store.has(digest(data))
    await cdn.store.no_open_uploads(f"assets/{digest(data)}", patience=30)


async def test_s3_that_hangs(cdn: Cdn) -> None:
    """
    The deadline of a call holds when S3 accepts connections and does not respond.
    """
    name = (await upload(cdn.stub, some_bytes(10))).name
    cdn.link.hang()
    began = time.monotonic()
    try:
        with pytest.raises(grpc.RpcError) as caught:
            await cdn.stub.Download(pb.DownloadRequest(name=name), timeout=1.5).read()
    finally:
        cdn.link.go_on()
    assert failure(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 10
    data = some_bytes(10)
    assert (await upload(cdn.stub, data)).sha256 == digest(data)


async def test_static_files_that_wait_for_s3(cdn: Cdn) -> None:
    """
    While writes of static files wait for S3, all other writes of the process continue: pins, and writes of static files
    that fail before they need S3.
    """
    delivery = DeliveryServiceStub(cdn.channel)
    names = [(await upload(cdn.stub, some_bytes(10))).name for _ in range(4)]

    def put(path: str, asset: str, seconds: float) -> Awaitable[object]:
        static_file = delivery_pb2.StaticFile(name=f"static/waits/{path}", asset=asset)
        return delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=static_file), timeout=seconds)

    cdn.link.hang()
    try:
        waiting = [asyncio.ensure_future(put(str(n), name, 30)) for n, name in enumerate(names)]
        await asyncio.wait(waiting, timeout=0.5)
        assert not any(each.done() for each in waiting)
        pin = pb.PinRequest(owner="static/pinned", names=names)
        assert (await cdn.stub.Pin(pin, timeout=10)).pinned_count == len(names)
        with pytest.raises(grpc.RpcError) as caught:
            await put("absent", f"assets/{digest(b'never stored')}", 10)
        assert failure(caught.value).reason == "ASSET_NOT_FOUND"
    finally:
        cdn.link.go_on()
    # Interrupted, each is retried or UNAVAILABLE; none fails otherwise.
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert not isinstance(each, BaseException) or failure(each).code is grpc.StatusCode.UNAVAILABLE  # type: ignore[arg-type]
    await cdn.stub.Unpin(pb.UnpinRequest(owner="static/pinned"))
