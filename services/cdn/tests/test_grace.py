"""
Grace periods of unpinned assets.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import Stub, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn, World, serving_here

OWNER = "namespaces/default/models/m/versions/1"


async def age(cdn: Cdn, name: str) -> None:
    """
    Make an asset as old as a week.
    """
    connection = await asyncpg.connect(cdn.place.database)
    sha256 = name.removeprefix("assets/")
    await connection.execute("UPDATE assets SET touch_time = now() - interval '7 days' WHERE sha256 = $1", sha256)
    await connection.close()


async def collect(stub: Stub) -> pb.CollectGarbageResponse:
    """
    Call CollectGarbage.
    """
    return await stub.CollectGarbage(pb.CollectGarbageRequest())


async def test_what_loses_its_pin_has_its_grace(own_place: Cdn) -> None:
    """
    The grace period begins when the last pin is removed, however old the asset is.
    """
    stub = own_place.stub
    name, idle = (await upload(stub, some_bytes(10))).name, (await upload(stub, some_bytes(11))).name
    await stub.Pin(pb.PinRequest(owner=OWNER, names=[name]))
    for each in (name, idle):
        await age(own_place, each)
    await stub.Unpin(pb.UnpinRequest(owner=OWNER))
    assert list((await collect(stub)).names) == [idle]
    assert (await stub.GetAsset(pb.GetAssetRequest(name=name))).name == name


async def test_the_bytes_of_what_is_condemned_stay_for_a_time(world: World) -> None:
    """
    A condemned asset is not found any more, while its bytes remain for the delay, for downloads in progress.
    """
    nothing: dict[str, Any] = {f"MODELYARD_COLLECT_{name}_SECONDS": "0" for name in ("GRACE", "GRACE_LEAST", "EVERY")}
    async with serving_here(world, MODELYARD_COLLECT_DELAY_SECONDS="3600", **nothing) as cdn:
        asset = await upload(cdn.stub, some_bytes(12))
        assert list((await collect(cdn.stub)).names) == [asset.name]
        assert (await collect(cdn.stub)).deleted_count == 0
        with pytest.raises(grpc.RpcError) as caught:
            await cdn.stub.GetAsset(pb.GetAssetRequest(name=asset.name))
        assert failure(caught.value).reason == "ASSET_NOT_FOUND"
        found = world.client.list_objects_v2(Bucket=cdn.place.bucket).get("Contents", [])
        assert [each["Key"] for each in found] == [f"assets/{asset.sha256}"]


async def test_what_is_pinned_while_a_collection_waits_stays(own_place: Cdn) -> None:
    """
    A collection that waited for the lock of an asset checks again whether it is pinned.
    """
    name = (await upload(own_place.stub, some_bytes(13))).name
    await age(own_place, name)
    sha256 = name.removeprefix("assets/")
    connection = await asyncpg.connect(own_place.place.database)
    async with connection.transaction():
        await connection.execute("SELECT FROM assets WHERE sha256 = $1 FOR NO KEY UPDATE", sha256)
        collecting = asyncio.create_task(collect(own_place.stub))
        async with asyncio.timeout(10):
            while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not collecting.done()
                await asyncio.sleep(0.005)
        await connection.execute("INSERT INTO pins VALUES ($1, $2, 13, now())", OWNER, sha256)
    await connection.close()
    assert not (await collecting).names
    assert (await own_place.stub.GetAsset(pb.GetAssetRequest(name=name))).name == name
