"""
The service is killed with -9 at the end of FinishUpload: finishing again gives the asset, and no byte goes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from services.cdn.tests.calls import digest, download, failure, some_bytes
from services.cdn.tests.conftest import Cdn, World, serving
from services.cdn.tests.drills.conftest import kill
from services.cdn.tests.uploading import PART, Client, put
from services.embedded.postgres import Postgres

#: What a call writes to at these moments, and nothing before them.
BEFORE, AFTER = "changes", "finished_uploads"


class Held:
    """
    A table of a service's database that nobody can write to.

    Args:
        connection: of the one who may do everything.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def somebody_waits(self) -> None:
        """
        Wait until the service wants to write to it.
        """
        while not await self._connection.fetchval(f"SELECT count(*) {_WAITING}"):
            await asyncio.sleep(0.05)

    async def send_away(self) -> None:
        """
        What waits is not written: its connection ends, as its process did.
        """
        await self._connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) {_WAITING}")


_WAITING = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@asynccontextmanager
async def held(postgres: Postgres, cdn: Cdn, table: str) -> AsyncIterator[Held]:
    """
    Let nobody write to *table* while the block lasts.
    """
    connection = await asyncpg.connect(_owners(postgres, cdn))
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield Held(connection)
    finally:
        await connection.close()


async def a_minute_passes(postgres: Postgres, cdn: Cdn) -> None:
    """
    The time is over for which a process says that it is finishing an upload.
    """
    connection = await asyncpg.connect(_owners(postgres, cdn))
    try:
        await connection.execute("UPDATE uploads SET finishing_until = finishing_until - interval '1 minute'")
    finally:
        await connection.close()


def _owners(postgres: Postgres, cdn: Cdn) -> str:
    return postgres.url(cdn.place.database.rpartition("@/")[2].partition("?")[0])


async def sent(cdn: Cdn, data: bytes, *, direct: bool) -> Client:
    """
    An upload whose bytes are all there.
    """
    client = Client(cdn, data)
    await client.start()
    if not direct:
        await client.write(0)
        return client
    for number, url in enumerate((await client.urls([1, 2])).urls):
        assert await asyncio.to_thread(put, url.url, data[number * PART : (number + 1) * PART]) == 200
    return client


async def is_there(cdn: Cdn, data: bytes) -> bool:
    """
    Whether *data* is an asset.
    """
    try:
        await cdn.stub.GetAsset(assets_pb2.GetAssetRequest(name=f"assets/{digest(data)}"), timeout=10)
    except grpc.RpcError as error:
        assert failure(error).reason == "ASSET_NOT_FOUND"
        return False
    return True


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
@pytest.mark.parametrize("direct", [False, True], ids=["streamed", "direct"])
async def test_killed_between_s3_and_the_database(
    world: World, postgres: Postgres, tmp_path: Path, direct: bool, moment: str
) -> None:
    """
    When the bytes are complete in S3 and the process is killed before it could say so, nobody sees them; finishing
    again gives the asset, without a byte sent again. Likewise when it could say so, and not that the upload ended.
    """
    data = some_bytes(PART + 77)
    async with serving(world, tmp_path, dies=True) as cdn:
        client = await sent(cdn, data, direct=direct)
        async with held(postgres, cdn, moment) as table:
            call = asyncio.ensure_future(client.finish())
            await table.somebody_waits()
            assert cdn.store.has(digest(data))
            kill(cdn.pid)
            with pytest.raises(grpc.RpcError):
                await call
            await table.send_away()
        place, name = cdn.place, client.name
    async with serving(world, tmp_path, place=place) as cdn:
        client = Client(cdn, data)
        client.name = name
        assert await is_there(cdn, data) == (moment == AFTER)
        with pytest.raises(grpc.RpcError) as caught:
            await client.finish()
        assert (failure(caught.value).code, failure(caught.value).reason) == (
            grpc.StatusCode.ABORTED,
            "UPLOAD_FINISHING",
        )
        await a_minute_passes(postgres, cdn)
        assert (await client.query()).committed_bytes == len(data)
        asset = await client.finish()
        assert await client.finish() == asset
        assert await download(cdn.stub, asset.name) == (data, asset.sha256)
        await client.left_nothing()
