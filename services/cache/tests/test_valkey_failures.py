"""
Failures of Valkey: reads continue, and no wrong answer is served.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
import redis

from embedded.link import Link
from embedded.parts import free_port
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from embedded.valkey_cluster import ValkeyCluster
from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from modelyard.registry.v1 import models_pb2
from services.cache.tests.harness import NAME, Backend, Cache, Origin, running

IMPATIENT = {"MODELYARD_VALKEY_TIMEOUT_SECONDS": "0.05"}


async def status(cache: Cache) -> cache_pb2.GetStatusResponse:
    """
    The status of the cache.
    """
    return await cache_pb2_grpc.CacheAdminServiceStub(cache.channel).GetStatus(cache_pb2.GetStatusRequest())


async def eventually(holds: Callable[[], bool]) -> None:
    """
    Wait for what happens in the background, such as a write to Valkey after its read was answered.
    """
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def until(cache: Cache, state: str) -> None:
    """
    Wait for a state of the breaker while reads go on.
    """
    async with asyncio.timeout(30):
        while (await status(cache)).breaker_state != state:
            await cache.read(f"{NAME}-{time.monotonic_ns()}", cache_control="no-cache")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def linked(valkey: Valkey) -> AsyncIterator[tuple[Link, Backend]]:
    """
    A link to Valkey, and the backend behind it.
    """
    link = Link(valkey.port)
    await link.up()
    try:
        yield link, Backend(f"redis://127.0.0.1:{link.port}/0")
    finally:
        await link.down()


async def cold_reads(cache: Cache, origin: Origin, count: int) -> list[float]:
    """
    Read new models, check every answer, and return the seconds that each read took.
    """
    took = []
    for number in range(count):
        name = f"{NAME}-{time.monotonic_ns()}-{number}"
        await origin.write(str(number), name)
        began = time.perf_counter()
        assert (await cache.read(name)).owner == str(number)
        took.append(time.perf_counter() - began)
    return took


def fill(client: redis.Redis) -> None:
    """
    Store values until there is no memory for more.
    """
    with suppress(redis.exceptions.OutOfMemoryError):
        for number in range(1_000):
            client.set(f"large-filler-{number}", b"x" * 200_000)
    for number in range(100_000):
        client.set(f"filler-{number}", b"x" * 10_000)


async def test_valkey_killed_and_started_again(target: str, origin: Origin) -> None:
    """
    When Valkey is killed, no read fails and the circuit breaker opens; when it is back, empty, it is used again.
    """
    with scratch() as state:
        supervisor, server = Supervisor(state / "log"), Valkey(free_port())
        await asyncio.to_thread(supervisor.start, [server.part()])
        try:
            async with running(target, Backend(server.url)) as cache:
                await cache.warm()
                await asyncio.to_thread(supervisor.kill, "valkey")
                await cold_reads(cache, origin, 30)
                assert (await cache.read()).cache == "near"
                assert (await status(cache)).breaker_state != "closed"
                await asyncio.to_thread(supervisor.start, [server.part()])
                async with asyncio.timeout(30):
                    while (await status(cache)).breaker_state != "closed":
                        await asyncio.sleep(0.05)
                await cold_reads(cache, origin, 3)
                with redis.Redis(port=server.port) as client:
                    await eventually(lambda: client.dbsize() >= 3)
        finally:
            await asyncio.to_thread(supervisor.stop)


async def test_valkey_slow(target: str, origin: Origin, valkey: Valkey) -> None:
    """
    Behind a link with a delay of ten seconds, the first reads wait for the timeout, and then the circuit breaker
    prevents further waits.
    """
    # Far apart, so that a busy machine does not make one look like another: a read, the timeout, the delay.
    timeout = 0.5
    patient = {"MODELYARD_VALKEY_TIMEOUT_SECONDS": str(timeout)}
    async with linked(valkey) as (link, backend), running(target, backend, **patient) as cache:
        await cache.warm()
        link.delay = 10.0
        first = await cold_reads(cache, origin, 6)
        # Half-open for the time of a probe.
        assert (await status(cache)).breaker_state != "closed"
        assert max(first) < link.delay
        later = sorted(await cold_reads(cache, origin, 50))
        assert later[25] < timeout
        link.delay = 0.0
        link.cut()
        async with asyncio.timeout(30):
            while (await status(cache)).breaker_state != "closed":
                await asyncio.sleep(0.05)


async def test_a_node_of_the_cluster_killed(target: str, origin: Origin) -> None:
    """
    When a node of a cluster dies, no read fails; after the failover all keys are shared again, and invalidated values
    stay invalidated.
    """
    with scratch() as state:
        nodes, supervisor = ValkeyCluster(state), Supervisor(state / "log")
        try:
            await asyncio.to_thread(nodes.start, supervisor)
            store = Backend(nodes.url, cluster=True)
            brief = {"MODELYARD_VALKEY_TIMEOUT_SECONDS": "0.5"}
            forgetful = {**brief, "MODELYARD_CACHE_NEAR_BYTES": "0"}
            async with running(target, store, **brief) as cache, running(target, store, **forgetful) as other:
                await cache.warm()
                values = cache_pb2_grpc.KeyValueServiceStub(cache.channel)
                session = cache_pb2.Entry(key="a", value=b"x", tags=["user:ada"])
                await values.Set(cache_pb2.SetRequest(namespace="sessions", entry=session))
                await values.InvalidateTags(cache_pb2.InvalidateTagsRequest(namespace="sessions", tags=["user:ada"]))
                with store.client() as client:
                    owner = client.get_node_from_key("modelyard:v:{sessions}")
                    # Writes that a primary has acknowledged and not yet replicated are lost with it.
                    await asyncio.to_thread(client.wait, 1, 1000, target_nodes=owner)
                supervisor.kill(next(node.name for node in nodes.nodes if node.port == owner.port))
                await cold_reads(cache, origin, 100)
                async with asyncio.timeout(30):
                    while await shared(cache, other, origin) < 20:
                        await asyncio.sleep(0.2)
                assert await revoked(values, "a")
        finally:
            await asyncio.to_thread(supervisor.stop)


async def test_a_silent_node_of_the_cluster(target: str, origin: Origin, valkey_cluster: ValkeyCluster) -> None:
    """
    When a node of a cluster does not answer, the keys of the others are found as before, also by concurrent reads, and
    only the circuit breaker of that node opens.
    """
    valkey_cluster.clear()
    store = Backend(valkey_cluster.url, cluster=True)
    # Long enough for a busy machine: the breaker shows which node was skipped.
    brief = {"MODELYARD_VALKEY_TIMEOUT_SECONDS": "0.3"}
    names = [f"{NAME}-{number}" for number in range(60)]
    forgetful = {**brief, "MODELYARD_CACHE_NEAR_BYTES": "0"}
    async with running(target, store, **brief) as cache, running(target, store, **forgetful) as other:
        async with asyncio.timeout(30):
            while other.number("modelyard_cache_stream_age_seconds", service="registry") > 10:
                await asyncio.sleep(0.02)
        for name in names:
            await origin.write("owner", name)
            await cache.warm(name)
        async with asyncio.timeout(30):
            while {(await other.read(name)).cache for name in names} != {"shared"}:
                await asyncio.sleep(0.05)
        with store.client() as client:
            nodes = {name: client.get_node_from_key(key_of(name)).port for name in names}
        silent = nodes[names[0]]
        with redis.Redis(port=silent) as client:
            client.client_pause(4000)
        asked = sum(port == silent for port in nodes.values())
        before = other.number("modelyard_cache_reads_total", class_="models", result="miss")
        opened = other.number("modelyard_cache_breaker_opened_total")
        for _ in range(5):
            found = await asyncio.gather(*(other.read(name) for name in names))
            assert {answer.owner for answer in found} == {"owner"}
            elsewhere = [answer.cache for name, answer in zip(names, found, strict=True) if nodes[name] != silent]
            assert set(elsewhere) == {"shared"}
        # Not the state: on a busy machine the node may answer again by now.
        assert other.number("modelyard_cache_breaker_opened_total") > opened
        # A lease request may find the entry after a miss: only the counter shows that it was one.
        assert other.number("modelyard_cache_reads_total", class_="models", result="miss") - before <= 5 * asked
        async with asyncio.timeout(30):
            while {(await other.read(name)).cache for name in names} != {"shared"}:
                await asyncio.sleep(0.1)


def key_of(name: str) -> str:
    """
    The key of a model's entry in Valkey.
    """
    asked = models_pb2.GetModelRequest(name=name).SerializeToString()
    key = b"/modelyard.registry.v1.ModelService/GetModel\0" + asked
    return "modelyard:r:{" + hashlib.sha256(key).hexdigest()[:40] + "}"


async def shared(cache: Cache, other: Cache, origin: Origin) -> int:
    """
    How many of 20 answers that one process loaded another one finds in L2.
    """
    names = [f"{NAME}-{time.monotonic_ns()}-{number}" for number in range(20)]
    for name in names:
        await origin.write("owner", name)
        await cache.read(name)
    await asyncio.sleep(0.1)
    return [(await other.read(name)).cache for name in names].count("shared")


async def revoked(values: cache_pb2_grpc.KeyValueServiceStub, key: str) -> bool:
    """
    Whether a session no longer exists.
    """
    try:
        await values.Get(cache_pb2.GetRequest(namespace="sessions", key=key))  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def test_valkey_full(target: str, origin: Origin) -> None:
    """
    A Valkey without free memory rejects writes and still answers: reads continue, and the breaker stays closed.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        server = Valkey(free_port(), 16 * 2**20, options={"maxmemory-policy": "noeviction"})
        await asyncio.to_thread(supervisor.start, [server.part()])
        try:
            with redis.Redis(port=server.port) as client, pytest.raises(redis.exceptions.OutOfMemoryError):
                fill(client)
            async with running(target, Backend(server.url)) as cache:
                await cache.warm()
                await cold_reads(cache, origin, 30)
                assert (await cache.read()).cache == "near"
                assert (await status(cache)).breaker_state == "closed"
        finally:
            await asyncio.to_thread(supervisor.stop)


async def test_valkey_that_answers_garbage(target: str, origin: Origin, valkey: Valkey) -> None:
    """
    Malformed answers, and answers to another request, are never served.
    """
    for garbage in (
        b"\x00\xff\x17garbage\r\n",
        b"$7\r\ngarbage\r\n",
        b"*1\r\n$7\r\ngarbage\r\n",
        b"+OK\r\n",
        b":1\r\n",
    ):
        async with linked(valkey) as (link, backend), running(target, backend, **IMPATIENT) as cache:
            await cache.warm()
            link.garbage = garbage
            await cold_reads(cache, origin, 10)
            link.garbage = None
            link.cut()
            async with asyncio.timeout(30):
                while (await status(cache)).breaker_state != "closed":
                    await asyncio.sleep(0.05)
            await cold_reads(cache, origin, 3)


async def test_garbage_in_valkey_is_a_miss(cache: Cache, target: str, store: Backend, origin: Origin) -> None:
    """
    Whatever is stored under an entry's key, only an entry of that key is served, and anything else is replaced.
    """
    for number in range(3):
        await origin.write(f"owner {number}", f"{NAME}-{number}")
        await cache.warm(f"{NAME}-{number}")
    with store.client() as client:
        await eventually(lambda: len(list(client.scan_iter(match=b"modelyard:r:*"))) >= 3)
        keys = list(client.scan_iter(match=b"modelyard:r:*"))
        assert len(keys) == 3
        first = client.get(keys[0])
        client.set(keys[0], b"garbage")
        client.set(keys[1], first)
        client.delete(keys[2])
        client.hset(keys[2], "a", "hash")
    async with running(target, store) as other:
        for number in range(3):
            await other.warm(f"{NAME}-{number}")
            assert (await other.read(f"{NAME}-{number}")).owner == f"owner {number}"
    with store.client() as client:
        await eventually(lambda: all(client.type(key) == b"string" for key in keys))


async def test_a_restart_that_lost_everything(cache: Cache, origin: Origin, store: Backend) -> None:
    """
    A Valkey that lost all data, including the scripts, is filled again.
    """
    await cache.warm()
    with store.client() as client:
        client.flushall()
        client.script_flush()
    await cold_reads(cache, origin, 3)
    with store.client() as client:
        await eventually(lambda: len(list(client.scan_iter(match=b"modelyard:r:*"))) >= 3)
