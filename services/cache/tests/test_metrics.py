"""
The Prometheus metrics of the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.cache.v1.cache_pb2_grpc import KeyValueServiceStub
from services.cache.tests.harness import Backend, Cache, Origin, running


@pytest.fixture
async def without_l1(target: str, store: Backend) -> AsyncIterator[Cache]:
    """
    A process without L1.
    """
    async with running(target, store, MODELYARD_CACHE_NEAR_BYTES="0") as found:
        yield found


async def until(found: Callable[[], bool]) -> None:
    """
    Wait for a condition.
    """
    async with asyncio.timeout(30):
        while not found():
            await asyncio.sleep(0.02)


async def test_reads_by_result(new_cache: Cache, without_l1: Cache, origin: Origin) -> None:
    """
    Hits are counted by level and class, and so are misses, bypasses, loads and waits.
    """
    # Reads before the first message of the stream are bypasses.
    await until(lambda: new_cache.number("modelyard_cache_stream_age_seconds", service="registry") < 10)
    await new_cache.warm()
    before = new_cache.number("modelyard_cache_reads_total", class_="models", result="near")
    await new_cache.read()
    await new_cache.read(cache_control="no-cache")
    assert new_cache.number("modelyard_cache_reads_total", class_="models", result="near") == before + 1
    assert new_cache.number("modelyard_cache_reads_total", class_="models", result="bypass") >= 1
    assert new_cache.number("modelyard_cache_reads_total", class_="models", result="miss") == 1
    await until(lambda: without_l1.number("modelyard_cache_stream_age_seconds", service="registry") < 10)
    assert (await without_l1.read()).cache == "shared"
    assert without_l1.number("modelyard_cache_reads_total", class_="models", result="shared") == 1
    assert without_l1.number("modelyard_cache_loads_total", class_="models") == 0
    loads = new_cache.number("modelyard_cache_loads_total", class_="models")
    origin.gate.clear()
    origin.owners["namespaces/default/models/n"] = "n"
    reads = [asyncio.create_task(new_cache.read("namespaces/default/models/n")) for _ in range(5)]
    await until(lambda: new_cache.number("modelyard_cache_waits_total", class_="models") == 4)
    origin.gate.set()
    await asyncio.gather(*reads)
    assert new_cache.number("modelyard_cache_loads_total", class_="models") == loads + 1


async def test_stale_answers_and_absences(new_cache: Cache, origin: Origin, target: str, store: Backend) -> None:
    """
    Reads answered stale are counted, and reads answered with a cached NOT_FOUND.
    """
    async with running(target, store, MODELYARD_CACHE_TTL_MODELS_SECONDS="0.2") as brief:
        await brief.warm()
        origin.away = True
        await asyncio.sleep(0.3)
        assert (await brief.read()).cache == "stale"
        assert brief.number("modelyard_cache_reads_total", class_="models", result="stale") == 1
    origin.away = False
    await new_cache.warm()
    origin.owners.pop("namespaces/default/models/none", None)
    origin.owners["namespaces/default/models/none"] = None  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await new_cache.read("namespaces/default/models/none")
    assert new_cache.number("modelyard_cache_absent_total", class_="models") == 2


async def test_invalidations_and_evictions(new_cache: Cache, origin: Origin) -> None:
    """
    Invalidations, the revision and the age of the stream, and evictions with their cause.
    """
    await new_cache.warm()
    revision = await origin.write("second")
    await until(lambda: new_cache.number("modelyard_cache_stream_revision", service="registry") == revision)
    assert new_cache.number("modelyard_cache_invalidations_total", service="registry") == 1
    assert new_cache.number("modelyard_cache_stream_age_seconds", service="registry") < 10
    await new_cache.read()
    assert new_cache.number("modelyard_cache_near_evictions_total", cause="invalid") == 1
    breaks = new_cache.number("modelyard_cache_stream_breaks_total", service="registry")
    await origin.break_streams()
    await until(lambda: new_cache.number("modelyard_cache_stream_breaks_total", service="registry") == breaks + 1)


async def test_propagation_delay(new_cache: Cache, origin: Origin) -> None:
    """
    The propagation delay of each revision is observed, and the age of the namespaces' feeds is exported.
    """
    await new_cache.warm()
    origin.committed = time.time() - 3
    before = new_cache.number("modelyard_change_stream_lag_seconds_count", service="registry")
    summed = new_cache.number("modelyard_change_stream_lag_seconds_sum", service="registry")
    await origin.write("second")
    await until(lambda: new_cache.number("modelyard_change_stream_lag_seconds_count", service="registry") == before + 1)
    assert new_cache.number("modelyard_change_stream_lag_seconds_sum", service="registry") - summed >= 3
    await until(lambda: new_cache.number("modelyard_cache_values_stream_age_seconds", namespace="shared") < 10)


async def test_sizes_and_connections(new_cache: Cache, origin: Origin) -> None:
    """
    Entries and bytes in L1, connections to Valkey, and the savings of compression.
    """
    origin.size = 5000
    await new_cache.warm()
    assert new_cache.number("modelyard_cache_near_entries") == 1
    assert new_cache.number("modelyard_cache_near_bytes") > 5000
    assert new_cache.number("modelyard_cache_valkey_connections") >= 1
    assert new_cache.number("modelyard_cache_breaker_open") == 0
    before, after = (new_cache.number(f"modelyard_cache_compression_{way}_bytes_total") for way in ("in", "out"))
    assert before > 5000
    assert after < before / 10


async def test_values_by_namespace(new_cache: Cache) -> None:
    """
    Hits and misses of the key-value cache are counted by namespace.
    """
    stub = KeyValueServiceStub(new_cache.channel)
    await stub.Set(pb.SetRequest(namespace="sessions", entry=pb.Entry(key="a", value=b"x")))
    await stub.Get(pb.GetRequest(namespace="sessions", key="a"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Get(pb.GetRequest(namespace="sessions", key="b"))
    for result in ("hit", "miss"):
        assert new_cache.number("modelyard_cache_values_total", namespace="sessions", result=result) == 1
