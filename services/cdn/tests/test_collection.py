"""
Garbage collection of many assets: in batches, with a time limit per call, and terminating even if the object store
refuses deletions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.model import all_keys
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import traffic
from services.cdn.store.retention.garbage_collection import CollectionResult, GarbageCollector, GracePeriods
from services.cdn.tests.calls import Stub, digest, failure
from services.cdn.tests.conftest import Store, World
from services.cdn.tests.machines import call, open_shop
from services.cdn.tests.memory_bucket import MemoryBucket
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.writer import Writer

_AT_ONCE = GracePeriods(timedelta(0), timedelta(0), timedelta(0))
_INSERT = """
INSERT INTO assets (sha256, state, size_bytes, media_type, private, create_time, touch_time, condemn_time, revision)
SELECT each, $2, 3, 'text/plain', false, now(), now() - interval '1 day',
       CASE WHEN $2 = 'CONDEMNED' THEN now() - interval '1 day' END, 1
  FROM unnest($1::text[]) AS each
"""
_COUNT = "UPDATE totals SET assets = assets + $1, bytes = bytes + 3 * $1"


@dataclass(frozen=True)
class Yard:
    """
    A garbage collector, its bucket and its database.
    """

    collection: GarbageCollector
    bucket: Bucket
    store: Store
    url: str

    async def add(self, count: int, state: str, keys: Callable[[str], Sequence[str]] = lambda _: ()) -> list[str]:
        """
        Add unpinned assets that were last touched yesterday.

        Args:
            keys: those of an asset under which there are objects.
        """
        digests = [digest(f"{state} {number}".encode()) for number in range(count)]
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(_INSERT, digests, state)
            if state == "LIVE":
                await connection.execute(_COUNT, count)
        finally:
            await connection.close()

        def put(key: str) -> None:
            self.store.client.put_object(Bucket=self.store.bucket, Key=key, Body=b"?")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, [key for each in digests for key in keys(each)]))
        return digests

    async def states(self) -> dict[str, int]:
        """
        The number of assets by state.
        """
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch("SELECT state, count(*) AS count FROM assets GROUP BY state")
        finally:
            await connection.close()
        return {row["state"]: row["count"] for row in rows}


def some_keys(sha256: str) -> list[str]:
    """
    From one to all keys of every sixteenth asset, none of the others.
    """
    return all_keys(sha256)[: 1 + int(sha256[0], 16) % 6] if sha256[1] == "0" else []


@pytest.fixture
async def yard(world: World) -> AsyncIterator[Yard]:
    """
    A garbage collector in this process, with an empty bucket and an empty database.
    """
    place = world.place()
    bucket = Bucket(world.straight(place.bucket))
    async with open_database(DatabaseSettings(url=place.database)) as database:
        writer = Writer(database)
        yield Yard(
            GarbageCollector(database, writer, bucket), bucket, Store(world.client, place.bucket), place.database
        )
        await writer.close()
        await bucket.close()


async def chain(yard: Yard, grace: GracePeriods = _AT_ONCE) -> list[CollectionResult]:
    """
    Calls with a time limit of zero, until the collection is complete.
    """
    calls = [await yard.collection.collect(grace, seconds=0)]
    while calls[-1].after:
        assert len(calls) < 100, "no end"
        calls.append(await yard.collection.collect(grace, seconds=0, after=calls[-1].after))
    return calls


async def test_each_call_does_a_part(yard: Yard) -> None:
    """
    A call ends at its time limit and returns a cursor. Together the calls delete all condemned assets with every key
    they may have, and condemn the others, which the next collection deletes.
    """
    await yard.add(250, "CONDEMNED", some_keys)
    await yard.add(450, "LIVE")
    calls = await chain(yard)
    assert [(each.deleted_count, each.condemned_count) for each in calls[:-2]] == [
        (100, 0),
        (100, 0),
        (50, 0),
        (0, 200),
    ]
    assert (sum(each.deleted_count for each in calls), sum(each.condemned_count for each in calls)) == (250, 450)
    assert (sum(each.deleted_bytes for each in calls), sum(each.failed_count for each in calls)) == (750, 0)
    assert (await yard.states(), yard.store.keys("")) == ({"CONDEMNED": 450}, [])


async def test_a_batch_is_one_request(yard: Yard) -> None:
    """
    The keys of a hundred assets are deleted with one request to the object store.
    """
    await yard.add(200, "CONDEMNED")
    before = traffic().calls()
    assert (await yard.collection.collect(_AT_ONCE)).deleted_count == 200
    made = {key: count - before.get(key, 0) for key, count in traffic().calls().items()}
    assert made.get(("DeleteObjects", "ok"), 0) == 2
    assert sum(count for (operation, _), count in made.items() if "Delete" in operation) == 2


async def test_a_dry_run_is_about_all_of_it(yard: Yard) -> None:
    """
    A dry run counts everything at once and changes nothing.
    """
    await yard.add(250, "CONDEMNED")
    await yard.add(1010, "LIVE")
    found = await yard.collection.collect(_AT_ONCE, dry=True, seconds=0)
    assert (found.condemned_count, found.condemned_bytes, found.deleted_count, found.after) == (1010, 3030, 250, "")
    assert len(found.names) == 1000
    assert await yard.states() == {"CONDEMNED": 250, "LIVE": 1010}


async def test_what_the_store_does_not_delete(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An asset whose object the store refuses to delete keeps its row, unlike the others of its batch. It is counted as
    failed, the calls terminate, and the next collection deletes it.
    """
    digests = await yard.add(250, "CONDEMNED", some_keys)
    locked = all_keys(min(digests))[0]
    yard.store.client.put_object(Bucket=yard.store.bucket, Key=locked, Body=b"?")
    real = Bucket.delete_many

    async def refusing(bucket: Bucket, keys: Sequence[str], *, until: float | None = None) -> set[str]:
        return await real(bucket, [key for key in keys if key != locked], until=until) | ({locked} & set(keys))

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete_many", refusing)
        calls = await chain(yard)
    assert (sum(each.deleted_count for each in calls), sum(each.failed_count for each in calls)) == (249, 1)
    assert (await yard.states(), yard.store.keys("")) == ({"DELETING": 1}, [locked])
    assert (await yard.collection.collect(_AT_ONCE)).deleted_count == 1
    assert (await yard.states(), yard.store.keys("")) == ({}, [])


async def test_a_call_answers_in_time(new_assets_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    CollectGarbage has a time limit per call; a client that follows the page tokens completes the collection.
    """
    monkeypatch.setattr("services.cdn.service.assets._COLLECT_SECONDS", 0)
    bucket = MemoryBucket()
    async with open_shop(new_assets_database(), bucket, lambda: set(bucket.objects)) as shop:
        machine, _ = await shop.begin(None, _AT_ONCE)
        await shop.eye.execute(_INSERT, [digest(str(number).encode()) for number in range(250)], "CONDEMNED")
        request, deleted = pb.CollectGarbageRequest(), []
        while True:
            done = await machine.assets.CollectGarbage(request, call())
            deleted.append(done.deleted_count)
            request.page_token = done.next_page_token
            if not request.page_token:
                break
        assert deleted == [100, 100, 50, 0]


async def test_tokens_of_others(stub: Stub) -> None:
    """
    An invalid page token is rejected.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await stub.CollectGarbage(pb.CollectGarbageRequest(page_token="~"))
    assert failure(caught.value).fields == {"page_token"}
