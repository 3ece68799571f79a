"""
The service as a process: required settings, readiness, and backpressure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded.link import Link
from embedded.s3 import S3
from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.__main__ import composed
from services.cdn.settings import CdnSettings
from services.cdn.tests.calls import MIB, chunk, chunks, digest, download, failure, header, some_bytes, stream, upload
from services.cdn.tests.conftest import Cdn, Place, World, serving_here, settings
from services.chassis.observability.metrics import Metrics
from services.chassis.serving.server import Server
from services.chassis.settings import SettingsError, load

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_other_host(world: World) -> None:
    """
    On the grpcio host, uploads and downloads work the same, including early responses and rejections.
    """
    async with serving_here(world) as cdn:
        data = some_bytes(9 * MIB)
        asset = await upload(cdn.stub, data)
        assert await download(cdn.stub, asset.name) == (data, digest(data))
        assert await upload(cdn.stub, data) == asset
        with pytest.raises(grpc.RpcError) as caught:
            await cdn.stub.Upload(stream(header(data, sha256=digest(b"?")), *chunks(data)), timeout=60)
        assert failure(caught.value).reason == "DIGEST_MISMATCH"
        await cdn.store.no_open_uploads("")


async def test_one_key_without_the_other(s3: S3, link: Link) -> None:
    """
    With one of the two credentials missing, the service does not start (test_launcher.py: exit code 1, and the error in
    one line).
    """
    place = Place("any", "postgresql://nobody@127.0.0.1:1/x")
    loaded = load(CdnSettings, settings(s3, link, place) | {"MODELYARD_S3_SECRET_KEY_FILE": ""})
    both = "set both MODELYARD_S3_ACCESS_KEY_FILE and MODELYARD_S3_SECRET_KEY_FILE"
    with pytest.raises(SettingsError, match=both):
        async with composed(Server(loaded, Metrics("services.cdn", "grpcio")), loaded):
            pass


async def test_readiness(cdn: Cdn) -> None:
    """
    The service is ready while its bucket is usable, and alive throughout.
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


async def test_s3_holds_the_client_back(cdn: Cdn) -> None:
    """
    Backpressure: while S3 accepts nothing, the service accepts only a few parts from the client.
    """
    sent, hanging, never = 0, asyncio.Event(), digest(some_bytes(8))

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        nonlocal sent
        yield header(sha256=never, size=400 * MIB)
        for offset in range(0, 400 * MIB, MIB):
            yield chunk(offset, bytes(MIB))
            sent += 1
            if sent == 10:
                await hanging.wait()

    call = cdn.stub.Upload(messages(), timeout=60)
    async with asyncio.timeout(30):
        while not cdn.store.parts(f"assets/{never}"):
            await asyncio.sleep(0.05)
    cdn.link.hang()
    hanging.set()
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
