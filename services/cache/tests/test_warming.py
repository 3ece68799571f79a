"""
Warm-up after a restart and on demand, and the admin service.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.cache.v1 import cache_pb2_grpc
from services.cache.store.hot_keys import HotStore
from services.cache.store.valkey import Valkey
from services.cache.tests.harness import NAME, Backend, Cache, Origin, running


def admin(cache: Cache) -> Any:
    """
    The admin service of a cache.
    """
    return cache_pb2_grpc.CacheAdminServiceStub(cache.channel)


async def read_often(cache: Cache, origin: Origin, count: int, reads: int = 50) -> None:
    """
    Create models and read each of them often.
    """
    for number in range(count):
        await origin.write(str(number), f"{NAME}-{number}")
    await cache.warm()
    for number in range(count):
        for _ in range(reads):
            await cache.read(f"{NAME}-{number}")


async def test_a_new_process_starts_warm(target: str, store: Backend, origin: Origin) -> None:
    """
    The most-read answers of the last run are in L1 before the first call, without calls to the origin if L2 has them.
    """
    async with running(target, store) as cache:
        await read_often(cache, origin, 5)
    calls = origin.calls
    async with running(target, store, MODELYARD_CACHE_WARM_PATIENCE_SECONDS="30") as cache:
        for number in range(5):
            answer = await cache.read(f"{NAME}-{number}")
            assert (answer.owner, answer.cache) == (str(number), "near")
    assert origin.calls == calls


async def test_what_changed_is_loaded_anew(target: str, store: Backend, origin: Origin) -> None:
    """
    A warm-up loads current answers, not those of the last run.
    """
    async with running(target, store) as cache:
        await read_often(cache, origin, 3)
    await origin.write("changed", f"{NAME}-1")
    with store.client() as client:
        for key in list(client.scan_iter(match=b"modelyard:r:*")):
            client.delete(key)
    async with running(target, store, MODELYARD_CACHE_WARM_PATIENCE_SECONDS="30") as cache:
        answer = await cache.read(f"{NAME}-1")
        assert (answer.owner, answer.cache) == ("changed", "near")


async def test_readiness_waits_only_so_long(target: str, store: Backend, origin: Origin) -> None:
    """
    An origin that does not respond does not block readiness.
    """
    async with running(target, store) as cache:
        await read_often(cache, origin, 3)
    with store.client() as client:
        for key in list(client.scan_iter(match=b"modelyard:r:*")):
            client.delete(key)
    origin.gate.clear()
    # A load ends after 20 s at the latest: a process that waited for it would not be ready by then.
    async with asyncio.timeout(15), running(target, store, MODELYARD_CACHE_WARM_PATIENCE_SECONDS="0.3"):
        assert not origin.gate.is_set()
        origin.gate.set()


async def test_warm_on_demand(target: str, store: Backend, origin: Origin) -> None:
    """
    Warm loads the requested number of keys at the requested rate, one warm-up at a time.
    """
    async with running(target, store) as cache:
        await read_often(cache, origin, 8)
        await admin(cache).Flush(pb.FlushRequest(shared=True))
        began = time.monotonic()
        running_ = asyncio.create_task(_warm(cache, key_count=5, rate=20))
        await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin(cache).Warm(pb.WarmRequest())
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        warmed = await running_
        assert (warmed.loaded_count, warmed.skipped_count) == (5, 0)
        assert time.monotonic() - began >= 0.2
        assert (await _warm(cache, key_count=5)).loaded_count == 0
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin(cache).Warm(pb.WarmRequest(rate=-1))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _warm(cache: Cache, **arguments: int) -> pb.WarmResponse:
    found: pb.WarmResponse = await admin(cache).Warm(pb.WarmRequest(**arguments))
    return found


async def test_flush_drops_what_it_says(cache: Cache, origin: Origin, target: str, store: Backend) -> None:
    """
    Flush clears L1 of this process, and L2 on request, and returns the number of entries.
    """
    for number in range(4):
        await origin.write(str(number), f"{NAME}-{number}")
        await cache.warm(f"{NAME}-{number}")
    await asyncio.sleep(0.1)
    assert (await admin(cache).Flush(pb.FlushRequest())).dropped_count == 4
    assert (await cache.read(f"{NAME}-0")).cache == "shared"
    assert (await admin(cache).Flush(pb.FlushRequest(shared=True))).dropped_count == 5
    calls = origin.calls
    assert (await cache.read(f"{NAME}-0")).cache == "miss"
    assert origin.calls == calls + 1


async def test_compressed_answers_are_read_by_other_processes(target: str, store: Backend, origin: Origin) -> None:
    """
    Answers above 1 KiB are compressed in Valkey with any method, and other processes read them.
    """
    await origin.write("large", f"{NAME}-large")
    origin.size = 50_000
    for method in ("zstd", "gzip", "none"):
        async with running(target, store, MODELYARD_CACHE_COMPRESSION=method) as cache:
            await admin(cache).Flush(pb.FlushRequest(shared=True))
            await cache.warm(f"{NAME}-large")
            with store.client() as client:
                async with asyncio.timeout(30):
                    while not (keys := list(client.scan_iter(match=b"modelyard:r:*"))):
                        await asyncio.sleep(0.02)
                (key,) = keys
                assert (client.strlen(key) < 5_000) is (method != "none")
        async with running(target, store) as cache:
            async with asyncio.timeout(30):
                while not (await admin(cache).GetStatus(pb.GetStatusRequest())).streams[0].connected:
                    await asyncio.sleep(0.02)
            assert (await cache.read(f"{NAME}-large")).cache in ("shared", "near")


async def test_one_bad_key_does_not_end_a_warm_up(target: str, store: Backend, origin: Origin) -> None:
    """
    A malformed request, which any client may have sent, is skipped: the others are warm after a restart.
    """
    async with running(target, store) as cache:
        await read_often(cache, origin, 3)
    garbage = [b"/modelyard.registry.v1.ModelService/GetModel\0\xff\xff", b"/\xff\0", b"nonsense"]
    valkey = Valkey(store.url, cluster=store.cluster, timeout=5)
    await HotStore(valkey, "modelyard", "another").save([(key, 1_000_000) for key in garbage])
    await valkey.close()
    async with running(target, store, MODELYARD_CACHE_WARM_PATIENCE_SECONDS="30") as cache:
        for number in range(3):
            assert (await cache.read(f"{NAME}-{number}")).cache == "near"
        assert (await _warm(cache)).loaded_count == 0
