"""
The service is killed with -9 in the middle of uploads and of FinishUpload: another process continues them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest

from embedded.postgres import SERVICE_ROLE, Postgres
from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import MIB, chunks, digest, download, failure, header, some_bytes, upload
from services.cdn.tests.conftest import Cdn, Place, World, serving, serving_here
from services.cdn.tests.drills.conftest import kill
from services.cdn.tests.uploading import PART, Client, put

# Not pg_stat_activity, which does not change within a transaction.
_WAITING = """
SELECT count(DISTINCT pid) FROM pg_locks
 WHERE NOT granted AND locktype = 'relation'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_LEASE: dict[str, Any] = {"MODELYARD_UPLOAD_LEASE_SECONDS": "0.5"}
#: Bytes that are sent of the interrupted WriteUpload.
_SENT = 2 * PART + MIB


class LockedTable:
    """
    A table of a service's database that is locked against writes.

    Args:
        connection: of the owner of the database.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def waiting(self, count: int) -> None:
        """
        Wait until *count* transactions of the service wait for locked tables.
        """
        while await self._connection.fetchval(_WAITING) < count:
            await asyncio.sleep(0.05)

    async def writer(self, client: Client) -> int:
        """
        The fencing token of an upload.
        """
        query = "SELECT writer FROM uploads WHERE id = $1"
        found: int = await self._connection.fetchval(query, client.name.removeprefix("uploads/"))
        return found

    async def disconnect_service(self) -> None:
        """
        End the connections of a killed process, so that the writes that wait there are not executed.
        """
        await self._connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = $1",
            SERVICE_ROLE,
        )


@asynccontextmanager
async def locked(postgres: Postgres, place: Place, table: str) -> AsyncIterator[LockedTable]:
    """
    Lock *table* against writes while the block lasts.
    """
    connection = await asyncpg.connect(_owner_url(postgres, place))
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield LockedTable(connection)
    finally:
        await connection.close()


def _owner_url(postgres: Postgres, place: Place) -> str:
    return postgres.url(place.database.rpartition("@/")[2].partition("?")[0])


async def written(cdn: Cdn, *, direct: bool) -> Client:
    """
    An upload with all of its bytes, to be finished.
    """
    client = Client(cdn, some_bytes(1000))
    await client.start()
    if direct:
        assert await asyncio.to_thread(put, (await client.urls([1])).urls[0].url, client.data) == 200
    else:
        await client.write(0)
    return client


async def assert_finishing(client: Client) -> None:
    """
    Fails unless FinishUpload says that another call is finishing the upload.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_FINISHING")


async def is_stored(cdn: Cdn, data: bytes) -> bool:
    """
    Whether *data* is an asset.
    """
    request = pb.FindMissingRequest(sha256=[digest(data)])
    return not (await cdn.stub.FindMissing(request, timeout=10)).sha256


@dataclass(frozen=True)
class Killed:
    """
    What a killed process was doing, and its successor.

    Args:
        cdn: the successor, in this process.
        uploading: the bytes of an interrupted Upload.
        writing: the upload of an interrupted WriteUpload.
        completed: uploads whose bytes were complete in S3, but not registered as assets.
        registered: uploads whose assets were registered, while the uploads were not recorded as finished.
        answers: of all calls that were interrupted, in the order of the fields above.
        had_object: whether the object of the interrupted Upload existed after the kill.
    """

    cdn: Cdn
    uploading: bytes
    writing: Client
    completed: list[Client]
    registered: list[Client]
    answers: list[object]
    had_object: bool


@pytest.fixture(scope="module")
async def killed(world: World, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Killed]:
    """
    A process of the production host that was killed while four kinds of calls were in progress.
    """
    folder = tmp_path_factory.mktemp("killed")
    uploading, begun, sent = some_bytes(2 * PART), asyncio.Event(), asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(uploading)
        for number, message in enumerate(chunks(uploading)):
            yield message
            if number == PART // MIB + 1:
                begun.set()
                await asyncio.sleep(60)

    async with serving(world, folder, dies=True, **_LEASE) as cdn:
        registered = [await written(cdn, direct=direct) for direct in (False, True)]
        completed = [await written(cdn, direct=direct) for direct in (False, True)]
        writing = Client(cdn, some_bytes(_SENT + MIB))
        await writing.start()
        calls: list[asyncio.Future[object]] = [
            asyncio.ensure_future(cdn.stub.Upload(messages(), timeout=60)),
            asyncio.ensure_future(writing.stub.WriteUpload(writing.messages(0, _SENT, sent.set), timeout=60)),
        ]
        await asyncio.gather(begun.wait(), sent.wait())
        await writing.stands_at(PART)
        async with locked(postgres, cdn.place, "finished_uploads") as table:
            calls += [asyncio.ensure_future(client.finish()) for client in registered]
            await table.waiting(2)
            # Registering an asset writes to the log of changes.
            async with locked(postgres, cdn.place, "changes"):
                calls += [asyncio.ensure_future(client.finish()) for client in completed]
                while not all(cdn.store.has(digest(client.data)) for client in completed):
                    await asyncio.sleep(0.05)
                # At least one of them: they may share a transaction.
                await table.waiting(3)
                kill(cdn.pid)
                answers = list(await asyncio.gather(*calls, return_exceptions=True))
                await table.disconnect_service()
        had_object, place = cdn.store.has(digest(uploading)), cdn.place
    async with serving_here(world, place=place, **_LEASE) as successor:
        for client in (writing, *completed, *registered):
            client.continue_at(successor)
        yield Killed(successor, uploading, writing, completed, registered, answers, had_object)


async def test_interrupted_calls(killed: Killed) -> None:
    """
    Every call of a process that is killed ends with UNAVAILABLE.
    """
    assert len(killed.answers) == 6
    for answer in killed.answers:
        assert isinstance(answer, grpc.RpcError)
        assert failure(answer).code is grpc.StatusCode.UNAVAILABLE


async def test_one_shot_upload(killed: Killed) -> None:
    """
    A process that is killed in the middle of Upload leaves no object, and the next one accepts the same bytes.
    """
    assert not killed.had_object
    assert not await is_stored(killed.cdn, killed.uploading)
    assert (await upload(killed.cdn.stub, killed.uploading)).size_bytes == len(killed.uploading)


async def test_resumable_upload(killed: Killed) -> None:
    """
    An upload is resumed at its committed position in another process, less than two parts are sent again, and the
    digest is that of all bytes.
    """
    client = killed.writing
    stands = (await client.start()).committed_bytes
    await client.is_free()
    assert stands >= PART
    assert _SENT - stands < 2 * PART
    await client.write(stands)
    asset = await client.finish()
    assert await download(killed.cdn.stub, asset.name) == (client.data, digest(client.data))
    await client.left_nothing()


async def test_between_s3_and_the_database(killed: Killed, postgres: Postgres) -> None:
    """
    Bytes that are complete in S3 are no asset before they are registered. Finishing such an upload again gives the
    asset without sending a byte again, and so does finishing one whose asset was registered; not before the claim of
    the killed process has expired.
    """
    cdn = killed.cdn
    assert [await is_stored(cdn, client.data) for client in killed.completed] == [False, False]
    assert [await is_stored(cdn, client.data) for client in killed.registered] == [True, True]
    uploads = [*killed.completed, *killed.registered]
    for client in uploads:
        await assert_finishing(client)
    connection = await asyncpg.connect(_owner_url(postgres, cdn.place))
    await connection.execute("UPDATE uploads SET finishing_until = finishing_until - interval '15 s'")
    await connection.close()
    for client in uploads:
        assert (await client.query()).committed_bytes == len(client.data)
        asset = await client.finish()
        assert await client.finish() == asset
        assert await download(cdn.stub, asset.name) == (client.data, digest(client.data))
        await client.left_nothing()


async def test_write_while_finishing(cdn: Cdn, postgres: Postgres) -> None:
    """
    WriteUpload to an upload that is being finished is rejected at once and does not affect FinishUpload.
    """
    client = await written(cdn, direct=False)
    async with locked(postgres, cdn.place, "finished_uploads") as table:
        call = asyncio.ensure_future(client.finish())
        await table.waiting(1)
        before = await table.writer(client)
        with pytest.raises(grpc.RpcError) as caught:
            await client.write(len(client.data) - 1)
        found = failure(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_FINISHING")
        assert await table.writer(client) == before
    assert (await call).sha256 == digest(client.data)
