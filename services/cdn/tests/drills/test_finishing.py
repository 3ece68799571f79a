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

from embedded.postgres import SERVICE_ROLE, Postgres
from modelyard.cdn.v1 import assets_pb2
from services.cdn.tests.calls import digest, download, failure, some_bytes
from services.cdn.tests.conftest import Cdn, World, serving
from services.cdn.tests.drills.conftest import kill
from services.cdn.tests.uploading import PART, Client, put

# Not pg_stat_activity, which stands still within a transaction.
_WAITING = """
SELECT count(DISTINCT pid) FROM pg_locks
 WHERE NOT granted AND locktype = 'relation'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Held:
    """
    A table of a service's database that nobody can write to.

    Args:
        connection: of the one who may do everything.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def waiting(self, count: int) -> None:
        """
        Wait until *count* transactions of the service wait to write to a table that is held.
        """
        while await self._connection.fetchval(_WAITING) < count:
            await asyncio.sleep(0.05)

    async def writer(self, client: Client) -> int:
        """
        Whose parts of an upload count, or who finishes it.
        """
        query = "SELECT writer FROM uploads WHERE id = $1"
        found: int = await self._connection.fetchval(query, client.name.removeprefix("uploads/"))
        return found

    async def send_away(self) -> None:
        """
        What a dead process waits to write is not written: its connections end, too.
        """
        await self._connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = $1",
            SERVICE_ROLE,
        )


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


def refused_as_finishing(error: BaseException | None) -> None:
    """
    Fails unless *error* says that the upload is being finished.
    """
    assert isinstance(error, grpc.RpcError)
    found = failure(error)
    assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_FINISHING")


async def is_there(cdn: Cdn, data: bytes) -> bool:
    """
    Whether *data* is an asset.
    """
    request = assets_pb2.FindMissingRequest(sha256=[digest(data)])
    return not (await cdn.stub.FindMissing(request, timeout=10)).sha256


async def test_killed_between_s3_and_the_database(world: World, postgres: Postgres, tmp_path: Path) -> None:
    """
    When the bytes are complete in S3 and the process is killed before it could say so, nobody sees them; finishing
    again gives the asset, without a byte sent again. Likewise when it could say so, and not that the upload ended.
    """
    async with serving(world, tmp_path, dies=True) as cdn:
        before = [await sent(cdn, some_bytes(PART + 77), direct=direct) for direct in (False, True)]
        after = [await sent(cdn, some_bytes(PART + 77), direct=direct) for direct in (False, True)]
        async with held(postgres, cdn, "finished_uploads") as table:
            calls = [asyncio.ensure_future(client.finish()) for client in after]
            await table.waiting(2)
            # Whoever registers an asset tells of it.
            async with held(postgres, cdn, "changes"):
                calls += [asyncio.ensure_future(client.finish()) for client in before]
                while not all(cdn.store.has(digest(client.data)) for client in before):
                    await asyncio.sleep(0.05)
                # At least one of them: they may share a transaction.
                await table.waiting(3)
                kill(cdn.pid)
                answers = await asyncio.gather(*calls, return_exceptions=True)
                await table.send_away()
        place = cdn.place
    assert all(isinstance(answer, grpc.RpcError) for answer in answers)
    async with serving(world, tmp_path, place=place) as cdn:
        assert [await is_there(cdn, client.data) for client in before] == [False, False]
        assert [await is_there(cdn, client.data) for client in after] == [True, True]
        for client in (*before, *after):
            await finished_again(client.on(cdn))


async def finished_again(client: Client) -> None:
    """
    Finish an upload whose process died while it finished it: that may take as long as the dead process had said last.
    """
    assert (await client.query()).committed_bytes == len(client.data)
    async with asyncio.timeout(20):
        while True:
            try:
                asset = await client.finish()
                break
            except grpc.RpcError as error:
                refused_as_finishing(error)
                await asyncio.sleep(0.5)
    assert await client.finish() == asset
    assert await download(client.cdn.stub, asset.name) == (client.data, asset.sha256)
    await client.left_nothing()


async def test_written_to_while_it_is_finished(cdn: Cdn, postgres: Postgres) -> None:
    """
    Whoever writes to an upload that is being finished is told so at once, and nothing of it reaches who finishes.
    """
    client = await sent(cdn, some_bytes(PART + 77), direct=False)
    async with held(postgres, cdn, "finished_uploads") as table:
        call = asyncio.ensure_future(client.finish())
        await table.waiting(1)
        before = await table.writer(client)
        with pytest.raises(grpc.RpcError) as caught:
            await client.write(len(client.data) - 1)
        refused_as_finishing(caught.value)
        assert await table.writer(client) == before
    assert (await call).sha256 == digest(client.data)
