"""
Reads from a streaming replica that lags behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from embedded.parts import free_port
from embedded.postgres import ASSETS_DATABASE, SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from embedded.testing import NOT_DURABLE, scratch
from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.migrate import FOLDER
from services.cdn.tests.calls import Stub, chunks, digest, header, some_bytes, stream
from services.cdn.tests.conftest import Place, World, serving_here
from services.ledger.migrate import main


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """
    A migrated primary, and a replica that receives the WAL without applying it.
    """
    with scratch() as state:
        supervisors = [Supervisor(state / "log"), Supervisor(state / "replica-log")]
        try:
            primary = Postgres.inside(state, free_port())
            supervisors[0].start([primary.part(**NOT_DURABLE)])
            with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
                patch.setenv("MODELYARD_DATABASE_URL", primary.url(ASSETS_DATABASE))
                # In a thread: it runs an event loop of its own.
                assert thread.submit(main, FOLDER, []).result() == 0
            replica = primary.replicate(state / "replica", free_port())
            supervisors[1].start([replica.part(**NOT_DURABLE)])
            replica.sql("SELECT pg_wal_replay_pause()")
            yield primary, replica
        finally:
            for supervisor in supervisors:
                supervisor.stop()


async def _upload(stub: Stub, data: bytes) -> str:
    call = stub.Upload(stream(header(data), *chunks(data)), timeout=60)
    await call
    return str(dict(await call.trailing_metadata() or ())["x-revision"])


async def _download(stub: Stub, data: bytes, revision: str) -> bytes:
    request = pb.DownloadRequest(name=f"assets/{digest(data)}")
    call = stub.Download(request, timeout=60, metadata=(("x-min-revision", revision),))
    return b"".join([message.chunk.data async for message in call])


async def _code(call: Awaitable[object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_whoever_has_written_reads_it(pair: tuple[Postgres, Postgres], world: World) -> None:
    """
    A download with the revision of its upload as minimum gets the bytes, however far the replica lags; without a
    minimum it reads the replica. Uploading the same bytes again stores nothing twice and is no error.
    """
    primary, replica = pair
    place = Place(world.place().bucket, primary.url(ASSETS_DATABASE, SERVICE_ROLE))
    urls = {
        "MODELYARD_DATABASE_REPLICA_URLS": replica.url(ASSETS_DATABASE, SERVICE_ROLE),
        "MODELYARD_DATABASE_REPLICA_LAG_SECONDS": "3600",
    }
    async with serving_here(world, place=place, **urls) as cdn:
        data = some_bytes(1000)
        code = None
        async with asyncio.timeout(30):
            # The replica is not used before its lag is known.
            while code is not grpc.StatusCode.NOT_FOUND:
                revision = await _upload(cdn.stub, data)
                assert await _download(cdn.stub, data, revision) == data
                code = await _code(_download(cdn.stub, data, "0"))
                await asyncio.sleep(0.1)
        again = await _upload(cdn.stub, data)
        assert await _download(cdn.stub, data, again) == data


async def test_a_write_that_has_seen_too_much(pair: tuple[Postgres, Postgres], world: World) -> None:
    """
    Like reads, an upload or a pin with a minimum revision that does not exist is rejected, an upload before its bytes
    are sent.
    """
    primary, _ = pair
    place = Place(world.place().bucket, primary.url(ASSETS_DATABASE, SERVICE_ROLE))
    async with serving_here(world, place=place) as cdn:
        data = some_bytes(1000)
        ahead = (("x-min-revision", "1000000"),)
        for call in (
            # No chunk is needed.
            cdn.stub.Upload(stream(header(data)), timeout=30, metadata=ahead),
            cdn.stub.Pin(pb.PinRequest(owner="static/x", names=[f"assets/{digest(data)}"]), timeout=30, metadata=ahead),
            cdn.stub.GetAsset(pb.GetAssetRequest(name=f"assets/{digest(data)}"), timeout=30, metadata=ahead),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="there is no revision 1000000") as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        revision = await _upload(cdn.stub, data)
        pin = pb.PinRequest(owner="static/x", names=[f"assets/{digest(data)}"])
        await cdn.stub.Pin(pin, timeout=30, metadata=(("x-min-revision", revision),))
