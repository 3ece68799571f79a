"""
The service as a process: what it needs to start, when it is ready, what it takes of memory, and its death.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded.link import Link
from embedded.s3 import S3
from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import MIB, chunk, chunks, digest, download, failure, header, some_bytes, stream, upload
from services.cdn.tests.conftest import ROOT, Cdn, Place, World, serving, serving_here, settings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_other_host(world: World) -> None:
    """
    Served by grpcio, uploads and downloads are the same, early answers and refusals included.
    """
    async with serving_here(world) as cdn:
        data = some_bytes(20 * MIB)
        asset = await upload(cdn.stub, data)
        assert await download(cdn.stub, asset.name) == (data, digest(data))
        assert await upload(cdn.stub, data) == asset
        with pytest.raises(grpc.RpcError) as caught:
            await cdn.stub.Upload(stream(header(data, sha256=digest(b"?")), *chunks(data)), timeout=60)
        assert failure(caught.value).reason == "DIGEST_MISMATCH"
        await cdn.store.no_open_uploads("")


def test_one_key_without_the_other(s3: S3, link: Link) -> None:
    """
    Half of the credentials is a mistake: the service says so in one line and does not start.
    """
    environment = settings(s3, link, Place("any", "postgresql://nobody@127.0.0.1:1/x")) | {
        "MODELYARD_S3_SECRET_KEY_FILE": ""
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.cdn"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "set both MODELYARD_S3_ACCESS_KEY_FILE and MODELYARD_S3_SECRET_KEY_FILE" in done.stderr
    assert "Traceback" not in done.stderr


async def test_readiness(cdn: Cdn) -> None:
    """
    The service is ready while its bucket can be used, and alive all the time.
    """
    health = health_pb2_grpc.HealthStub(cdn.channel)

    async def becomes(wanted: health_pb2.HealthCheckResponse.ServingStatus) -> bool:
        for _ in range(200):
            request = health_pb2.HealthCheckRequest(service="modelyard.cdn.v1.AssetService")
            if (await health.Check(request, timeout=5)).status == wanted:
                return True
            await asyncio.sleep(0.1)
        return False

    await cdn.link.down()
    try:
        assert await becomes(NOT_SERVING)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == SERVING
    finally:
        await cdn.link.up()
    assert await becomes(SERVING)


async def test_memory_of_an_upload(own_cdn: Cdn) -> None:
    """
    However large an asset is, its upload takes at most 64 MiB.
    """
    # What the first upload loads stays.
    await upload(own_cdn.stub, some_bytes(20 * MIB))
    before, peak, size = _rss(own_cdn.pid), 0, 128 * MIB
    block, sha256 = some_bytes(MIB), hashlib.sha256()
    for _ in range(size // MIB):
        sha256.update(block)

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        nonlocal peak
        yield header(sha256=sha256.hexdigest(), size=size)
        for offset in range(0, size, MIB):
            yield chunk(offset, block)
            peak = max(peak, _rss(own_cdn.pid))

    assert (await own_cdn.stub.Upload(messages(), timeout=100)).size_bytes == size
    assert peak - before <= 64 * MIB


async def test_s3_holds_the_client_back(cdn: Cdn) -> None:
    """
    While S3 takes nothing, the service takes no more than a few parts from the client.
    """
    sent, under_way, never = 0, asyncio.Event(), digest(some_bytes(8))

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        nonlocal sent
        yield header(sha256=never, size=400 * MIB)
        for offset in range(0, 400 * MIB, MIB):
            yield chunk(offset, bytes(MIB))
            sent += 1
            if sent == 20:
                under_way.set()

    call = cdn.stub.Upload(messages(), timeout=60)
    await under_way.wait()
    cdn.link.hang()
    try:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 120
    finally:
        call.cancel()
        cdn.link.go_on()
    await cdn.store.no_open_uploads(f"assets/{never}", patience=40)


async def test_killed_in_the_middle(world: World, tmp_path: Path) -> None:
    """
    A service that is killed in the middle of an upload leaves nothing visible, and the next one takes the bytes.
    """
    data = some_bytes(40 * MIB)
    under_way = asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(data)
        for number, message in enumerate(chunks(data)):
            yield message
            if number == 30:
                under_way.set()
                await asyncio.sleep(60)

    async with serving(world, tmp_path, dies=True) as cdn:
        call = cdn.stub.Upload(messages(), timeout=60)
        await under_way.wait()
        for process in psutil.Process(cdn.pid).children(recursive=True):
            process.kill()
        with pytest.raises(grpc.RpcError) as caught:
            await call
        assert failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
        place = cdn.place
        assert not cdn.store.has(digest(data))
    async with serving(world, tmp_path, place=place) as cdn:
        assert (await upload(cdn.stub, data)).size_bytes == len(data)


def _rss(pid: int) -> int:
    launcher = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (launcher, *launcher.children(recursive=True)))
