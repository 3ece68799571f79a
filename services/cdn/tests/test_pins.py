"""
Pins and quotas, and the deletion of unpinned assets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import delivery_pb2
from modelyard.cdn.v1.delivery_pb2_grpc import DeliveryServiceStub
from services.cdn.tests.calls import Stub, digest, download, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn, World, serving_here

OWNER = "namespaces/default/models/m/versions/1"
OTHER = "static/img/logo.png"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
# No automatic collection, and no grace periods: a collection deletes unpinned assets at once.
AT_ONCE: dict[str, Any] = {
    f"MODELYARD_COLLECT_{name}_SECONDS": "0" for name in ("GRACE", "GRACE_LEAST", "DELAY", "EVERY")
}


@pytest.fixture(scope="module")
async def hasty(world: World) -> AsyncIterator[Cdn]:
    """
    A service without grace periods and automatic collection, and with a quota of 1,000 bytes.
    """
    async with serving_here(
        world,
        **AT_ONCE,
        MODELYARD_OWNER_QUOTA_BYTES="1000",
    ) as found:
        yield found


async def pin(stub: Stub, owner: str, *names: str) -> int:
    """
    Pin assets.
    """
    return (await stub.Pin(pb.PinRequest(owner=owner, names=names))).pinned_count


async def unpin(stub: Stub, owner: str, *names: str) -> int:
    """
    Remove pins.
    """
    return (await stub.Unpin(pb.UnpinRequest(owner=owner, names=names))).unpinned_count


async def collect(stub: Stub, *, dry: bool = False) -> pb.CollectGarbageResponse:
    """
    Call CollectGarbage.
    """
    return await stub.CollectGarbage(pb.CollectGarbageRequest(dry_run=dry))


async def is_there(stub: Stub, name: str) -> bool:
    """
    Whether an asset exists.
    """
    try:
        await stub.GetAsset(pb.GetAssetRequest(name=name))
    except grpc.RpcError as error:
        if failure(error).reason != "ASSET_NOT_FOUND":
            raise
        return False
    return True


async def test_pins_are_idempotent(hasty: Cdn) -> None:
    """
    Pin and Unpin return the number of changes, and repeating them changes nothing.
    """
    stub = hasty.stub
    names = [(await upload(stub, some_bytes(10 + n))).name for n in range(3)]
    assert [await pin(stub, OWNER, *names[:2]), await pin(stub, OWNER, *names), await pin(stub, OWNER, *names)] == [
        2,
        1,
        0,
    ]
    listed = await stub.ListAssets(pb.ListAssetsRequest(owner=OWNER))
    assert [asset.name for asset in listed.assets] == sorted(names)
    assert [await unpin(stub, OWNER, names[0]), await unpin(stub, OWNER, names[0]), await unpin(stub, OWNER)] == [
        1,
        0,
        2,
    ]
    assert not (await stub.ListAssets(pb.ListAssetsRequest(owner=OWNER))).assets


async def test_all_or_none(hasty: Cdn) -> None:
    """
    If one of the assets does not exist, none is pinned, and the error names it.
    """
    there = (await upload(hasty.stub, some_bytes(10))).name
    missing = f"assets/{digest(some_bytes(9))}"
    with pytest.raises(grpc.RpcError) as caught:
        await pin(hasty.stub, OWNER, there, missing)
    assert (failure(caught.value).code, failure(caught.value).reason) == (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")
    assert await pin(hasty.stub, OWNER, there) == 1
    await unpin(hasty.stub, OWNER)


async def test_quota(hasty: Cdn) -> None:
    """
    An owner can pin up to its quota; repeated pins count once, and uploads that exceed it are rejected before their
    bytes are sent.
    """
    stub = hasty.stub
    names = [(await upload(stub, some_bytes(400))).name for _ in range(3)]
    assert await pin(stub, OTHER, *names[:2]) == 2
    assert await pin(stub, OTHER, *names[:2]) == 0
    with pytest.raises(grpc.RpcError) as caught:
        await pin(stub, OTHER, *names)
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "ASSET_QUOTA",
    )
    header = pb.UploadRequest.Header(sha256=digest(b"q"), size_bytes=201, owner=OTHER)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Upload(iter([pb.UploadRequest(header=header)]))
    assert failure(caught.value).reason == "ASSET_QUOTA"
    totals = await stub.GetStorageTotals(pb.GetStorageTotalsRequest(owner_prefix="static/"))
    assert [(one.owner, one.asset_count, one.bytes) for one in totals.owners] == [(OTHER, 2, 800)]
    await unpin(stub, OTHER)
    assert not (await stub.GetStorageTotals(pb.GetStorageTotalsRequest(owner_prefix="static/"))).owners


async def test_what_nobody_pins_is_forgotten(hasty: Cdn) -> None:
    """
    A collection condemns unpinned assets, and the next one deletes their bytes; a dry run reports them and changes
    nothing.
    """
    stub = hasty.stub
    await collect(stub)
    await collect(stub)
    kept, loose = [await upload(stub, some_bytes(30 + n), "text/plain") for n in range(2)]
    await pin(stub, OWNER, kept.name)
    before = await stub.GetStorageTotals(pb.GetStorageTotalsRequest())
    dry = await collect(stub, dry=True)
    assert (dry.condemned_count, dry.condemned_bytes, list(dry.names)) == (1, 31, [loose.name])
    assert await is_there(stub, loose.name)
    done = await collect(stub)
    assert (done.condemned_count, list(done.names), done.deleted_count) == (1, [loose.name], 0)
    assert not await is_there(stub, loose.name)
    assert hasty.store.has(loose.sha256)
    assert (await collect(stub, dry=True)).deleted_bytes == 31
    assert (await collect(stub)).deleted_count == 1
    assert not hasty.store.has(loose.sha256)
    assert await is_there(stub, kept.name)
    after = await stub.GetStorageTotals(pb.GetStorageTotalsRequest())
    assert (before.asset_count - after.asset_count, before.stored_bytes - after.stored_bytes) == (1, 31)
    await unpin(stub, OWNER)


async def test_collections_at_once(hasty: Cdn) -> None:
    """
    Concurrent collections do the work of one: each asset is condemned and deleted once.
    """
    stub = hasty.stub
    await collect(stub)
    await collect(stub)
    names = [(await upload(stub, some_bytes(9))).name for _ in range(20)]
    first = await asyncio.gather(*(collect(stub) for _ in range(3)))
    assert sorted(name for done in first for name in done.names) == sorted(names)
    second = await asyncio.gather(*(collect(stub) for _ in range(3)))
    assert sum(done.deleted_count for done in (*first, *second)) == 20


async def test_what_is_uploaded_again_is_back(hasty: Cdn) -> None:
    """
    Uploading the bytes of a condemned asset restores it, whether they were deleted or not.
    """
    data = some_bytes(50)
    name = (await upload(hasty.stub, data)).name
    for collections in (1, 2):
        for _ in range(collections):
            await collect(hasty.stub)
        assert not await is_there(hasty.stub, name)
        await upload(hasty.stub, data)
        await pin(hasty.stub, OWNER, name)
        await collect(hasty.stub)
        await collect(hasty.stub)
        assert (await download(hasty.stub, name))[0] == data
        await unpin(hasty.stub, OWNER)


async def test_grace(cdn: Cdn) -> None:
    """
    A recent upload is not collected, and a call cannot request less than the minimum grace period.
    """
    name = (await upload(cdn.stub, some_bytes(10))).name
    assert name not in (await collect(cdn.stub)).names
    assert await is_there(cdn.stub, name)
    with pytest.raises(grpc.RpcError) as caught:
        await cdn.stub.CollectGarbage(pb.CollectGarbageRequest(grace=Duration(seconds=1)))
    assert failure(caught.value).fields == {"grace"}


async def test_delete(hasty: Cdn) -> None:
    """
    DeleteAsset deletes an unpinned asset at once, and rejects a pinned one.
    """
    stub = hasty.stub
    name = (await upload(stub, some_bytes(10))).name
    await pin(stub, OWNER, name)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.DeleteAsset(pb.DeleteAssetRequest(name=name))
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ASSET_PINNED",
    )
    await unpin(stub, OWNER)
    await stub.DeleteAsset(pb.DeleteAssetRequest(name=name))
    assert not await is_there(stub, name)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.DeleteAsset(pb.DeleteAssetRequest(name=name))
    assert failure(caught.value).reason == "ASSET_NOT_FOUND"


async def test_a_collection_that_lost_s3(world: World) -> None:
    """
    A collection that cannot reach S3 loses nothing, and the next one completes it.
    """
    async with serving_here(world, **AT_ONCE) as cdn:
        asset = await upload(cdn.stub, some_bytes(10))
        await collect(cdn.stub)
        await cdn.link.down()
        try:
            assert (await collect(cdn.stub)).deleted_count == 0
        finally:
            await cdn.link.up()
        # Its bytes may be deleted at any moment, so it cannot be restored before they are.
        assert (await collect(cdn.stub)).deleted_count == 1
        assert not cdn.store.has(asset.sha256)


async def test_bad_requests(cdn: Cdn) -> None:
    """
    Errors name the invalid fields.
    """
    good = f"assets/{digest(b'x')}"
    calls: list[tuple[Awaitable[object], set[str]]] = [
        (cdn.stub.Pin(pb.PinRequest(owner=OWNER)), {"names"}),
        (cdn.stub.Pin(pb.PinRequest(owner=OWNER, names=[good, "x"])), {"names[1]"}),
        (cdn.stub.Pin(pb.PinRequest(owner="static/a//b", names=[good])), {"owner"}),
        (cdn.stub.Unpin(pb.UnpinRequest(owner="")), {"owner"}),
        (cdn.stub.Unpin(pb.UnpinRequest(owner=OWNER, request_id="\n")), {"request_id"}),
        (cdn.stub.ListAssets(pb.ListAssetsRequest(owner="x")), {"owner"}),
        (cdn.stub.GetStorageTotals(pb.GetStorageTotalsRequest(page_size=-1)), {"page_size"}),
        (cdn.stub.DeleteAsset(pb.DeleteAssetRequest(name="assets/..")), {"name"}),
    ]
    for call, fields in calls:
        with pytest.raises(grpc.RpcError) as caught:
            await call
        assert (failure(caught.value).code, failure(caught.value).fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            fields,
        )


async def test_pins_that_come_and_go_at_once(hasty: Cdn) -> None:
    """
    Concurrent Pin and Unpin calls of one owner at several processes never deadlock.
    """
    names = [(await upload(hasty.stub, some_bytes(9))).name for _ in range(20)]
    connection = await asyncpg.connect(hasty.place.database)
    try:
        before = await connection.fetchval(_DEADLOCKS)

        async def again(call: Callable[..., Awaitable[int]]) -> None:
            for _ in range(15):
                await call(hasty.stub, OWNER, *names)

        await asyncio.gather(*(again(call) for call in (pin, unpin, pin, unpin)))
        await connection.execute("SELECT pg_stat_force_next_flush()")
        assert await connection.fetchval(_DEADLOCKS) == before
    finally:
        await connection.close()
    await unpin(hasty.stub, OWNER)


async def test_pins_and_static_files_of_one_owner_at_once(hasty: Cdn) -> None:
    """
    Pin and Unpin under the name of a static file never deadlock with writes of that file.
    """
    names = [(await upload(hasty.stub, some_bytes(9), "text/plain")).name for _ in range(4)]
    owner, delivery = "static/circle", DeliveryServiceStub(hasty.channel)
    connection = await asyncpg.connect(hasty.place.database)
    try:
        before = await connection.fetchval(_DEADLOCKS)

        async def put() -> None:
            for n in range(20):
                static_file = delivery_pb2.StaticFile(name=owner, asset=names[n % 2])
                await delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=static_file))

        async def again(call: Callable[..., Awaitable[int]]) -> None:
            for _ in range(20):
                await call(hasty.stub, owner, *names[2:])

        await asyncio.gather(put(), again(pin), again(unpin), again(pin), again(unpin))
        await connection.execute("SELECT pg_stat_force_next_flush()")
        assert await connection.fetchval(_DEADLOCKS) == before
    finally:
        await connection.close()
    await delivery.DeleteStaticFile(delivery_pb2.DeleteStaticFileRequest(name=owner))
    await unpin(hasty.stub, owner)


async def test_many_pins_at_once(hasty: Cdn) -> None:
    """
    Concurrent pins of the same assets by many owners all succeed, whatever the lock order.
    """
    names = [(await upload(hasty.stub, some_bytes(9))).name for _ in range(20)]
    owners = [f"static/many/{n}" for n in range(16)]
    await asyncio.gather(
        *(pin(hasty.stub, owner, *(names if n % 2 else reversed(names))) for n, owner in enumerate(owners))
    )
    totals = await hasty.stub.GetStorageTotals(pb.GetStorageTotalsRequest(owner_prefix="static/many/"))
    assert [one.asset_count for one in totals.owners] == [20] * 16
    assert not set(names) & set((await collect(hasty.stub)).names)
    await asyncio.gather(*(unpin(hasty.stub, owner) for owner in owners))
