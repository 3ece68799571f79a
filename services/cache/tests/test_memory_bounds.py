"""
The memory that the key-value cache uses in Valkey is bounded, whatever Valkey loses and whatever clients request.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from itertools import chain
from pathlib import Path

import grpc
import pytest
import redis

from embedded.parts import free_port
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.cache.v1 import cache_pb2 as pb
from services.cache.model.namespaces import parse
from services.cache.tests.harness import Backend, Cache, running
from services.cache.tests.values_client import Values, code

BASE = b"modelyard:v:{small}:"
NAMESPACES = Path(__file__).parents[1] / "namespaces.toml"
PARTS = {b"meta", b"tags", b"names", b"sizes", b"ends", b"log"}


def valkeys(store: Backend) -> list[redis.Redis]:
    """
    A client for each primary, with a timeout of one second.
    """
    if not store.cluster:
        return [redis.Redis.from_url(store.url, socket_timeout=1)]
    with store.client() as client:
        return [redis.Redis(port=node.port, socket_timeout=1) for node in client.get_primaries()]


def answers(store: Backend) -> bool:
    """
    Whether every server answers a PING within a second.
    """
    for client in valkeys(store):
        with closing(client):
            client.ping()
    return True


async def gone(values: Values, key: str) -> None:
    """
    Wait until a key has expired.
    """
    async with asyncio.timeout(30):
        while (await values.get(key))[0] is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("store", ["standalone"], indirect=True)
@pytest.mark.parametrize("expired", [False, True], ids=["", "expired"])
@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
@pytest.mark.parametrize("part", ["meta", "tags", "names", "sizes", "ends", "log"])
async def test_whatever_is_lost_nothing_is_stuck(
    values: Values, store: Backend, part: str, full: bool, expired: bool
) -> None:
    """
    Whichever part of a namespace Valkey loses, full or not, with expired values or not: Valkey answers, no invalidated
    value reappears, scans and gets agree, and the namespace can store as much as before.
    """
    await values.set("revoked", b"1", ["user:1"])
    await values.invalidate("user:1")
    kept = await values.fill_up() if full else []
    if expired:
        # In place of others: however slowly this runs, nothing else takes the space of a value that expires meanwhile.
        await values.delete("none", *kept[:5])
        kept = kept[5:]
        for number in range(5):
            await values.set(f"brief-{number}", b"x" * 900, ttl=0.2)
        await gone(values, "brief-4")
    with store.client() as client:
        assert client.delete(BASE + part.encode()) == 1

    assert (await values.get("revoked"))[0] is None
    if full and not expired and part == "log":
        await values.delete(kept[0])
    for number in range(3):
        await values.set("new", str(number).encode(), ["user:1"])
        assert (await values.get("new"))[0] == str(number).encode()
    assert (await values.get("revoked"))[0] is None
    there = [key for key in ("new", *kept) if (await values.get(key))[0] is not None]
    assert list(chain(*await values.scan())) == sorted(there)
    await values.invalidate("user:1")
    assert (await values.get("new"))[0] is None
    assert answers(store)
    for key in await values.fill_up():
        assert (await values.get(key))[0] == b"x" * 900
    stats = await values.stats()
    assert (stats.entries >= 12, stats.bytes <= 27_000) == (True, True), stats
    assert answers(store)


async def test_a_copy_in_memory_ends_with_the_log(cached: Cache, neighbour: Cache, store: Backend) -> None:
    """
    When the log is lost with a change in it that another process has not read, that process no longer serves its older
    L1 entries.
    """
    mine, theirs = Values(cached, "close"), Values(neighbour, "close")
    await mine.set("k", b"first")
    await theirs.in_memory("k")
    with store.client() as client:
        # Atomically, so that nothing reads the log in between: a write, and the loss of its log entry.
        script = """
            local seq = string.format('%.0f', redis.call('HGET', KEYS[1] .. ':meta', 'seq') + 1)
            redis.call('HSET', KEYS[1] .. ':meta', 'seq', seq)
            redis.call('HSET', KEYS[1] .. ':k:k', 'v', 'second', 's', seq)
            redis.call('DEL', KEYS[1] .. ':log')
        """
        client.eval(script, 1, b"modelyard:v:{close}")
    async with asyncio.timeout(30):
        while (await theirs.get("k"))[0] != b"second":
            await asyncio.sleep(0.01)


async def test_evicted_values_release_their_quota(values: Values, store: Backend) -> None:
    """
    Values that Valkey evicted stop counting against the quota: others can take their place.
    """
    keys = await values.fill_up()
    with store.client() as client:
        for key in keys:
            client.delete(BASE + b"k:" + key.encode())
    assert await values.fill_up(ttl=50) == [key.replace("None", "50") for key in keys]


async def test_invalidated_values_release_their_quota(values: Values) -> None:
    """
    Invalidated values stop counting against the quota.
    """
    number = 0
    while True:
        try:
            await values.set(f"void-{number}", b"x" * 900, ["all"])
        except grpc.aio.AioRpcError:
            break
        number += 1
    await values.invalidate("all")
    assert len(await values.fill_up()) == number


async def test_deleting_an_evicted_key_invalidates_every_l1(cached: Cache, neighbour: Cache, store: Backend) -> None:
    """
    A key that Valkey evicted, and that a sweep has removed, is removed from L1 of all processes when it is deleted.
    """
    mine, theirs = Values(cached, "close"), Values(neighbour, "close")
    await mine.set("k", b"1")
    await theirs.in_memory("k")
    with store.client() as client:
        client.delete(b"modelyard:v:{close}:k:k")
    await mine.set("other", b"1")
    await mine.delete("k")
    async with asyncio.timeout(30):
        while (await theirs.get("k"))[0] is not None:
            await asyncio.sleep(0.01)


async def test_a_large_need_is_met_in_steps(cache: Cache) -> None:
    """
    A namespace full of expired values accepts a write that needs the space of more of them than one sweep removes.
    """
    values = Values(cache, "large")
    for batch in range(3):
        await values.set_many((f"brief-{batch}-{number}" for number in range(1000)), b"x" * 300, ttl=2)
    await gone(values, "brief-2-999")
    await values.set_many((f"k{number}" for number in range(1000)), b"x" * 2000)
    assert (await values.get("k999"))[0] == b"x" * 2000


async def test_deleting_missing_keys_adds_nothing_to_the_log(values: Values, store: Backend) -> None:
    """
    Deleting keys that do not exist adds nothing to the log.
    """
    await values.set("k", b"1")
    with store.client() as client:
        before = client.xlen(BASE + b"log")
        for _ in range(3):
            assert await values.delete(*(f"{number}-" + "x" * 500 for number in range(1000))) == 0
        assert client.xlen(BASE + b"log") == before


async def test_the_log_is_bounded_by_bytes(cache: Cache, store: Backend) -> None:
    """
    However long the keys are, the log takes at most a sixteenth of the quota, and stays in order.
    """
    values, base = Values(cache, "close"), b"modelyard:v:{close}:"
    for number in range(40):
        await values.set_many((f"{number}-{each}-" + "x" * 500 for each in range(20)), b"")
        await values.delete(*(f"{number}-{each}-" + "x" * 500 for each in range(20)))
    await values.set("short", b"1")
    with store.client() as client:
        assert client.memory_usage(base + b"log", samples=0) < 1_000_000 / 16
        kept, seq = (int(each) for each in client.hmget(base + b"meta", "kept", "seq"))
        ids = [int(entry[0].split(b"-")[0]) for entry in client.xrange(base + b"log")]
    assert 3 <= len(ids) < 40
    assert kept < ids[0]
    assert ids[-1] == seq
    assert (await values.stats()).bytes <= 1_000_000


async def test_tags_are_bounded(values: Values, store: Backend) -> None:
    """
    However many tags are invalidated, they take at most their share of the quota; tags dropped for that stay
    invalidated, and values without tags are unaffected.
    """
    await values.set("revoked", b"1", ["user:1"])
    await values.set("plain", b"1")
    await values.invalidate("user:1")
    lease = (await values.lease("leased")).lease.token
    for number in range(20):
        await values.invalidate(*(f"{number}-{each}" for each in range(100)))
    with store.client() as client:
        assert client.memory_usage(BASE + b"tags", samples=0) < 27_000 * 3 / 16
        assert client.zscore(BASE + b"tags", "user:1") is None
    assert (await values.get("revoked"))[0] is None
    assert (await values.get("plain"))[0] == b"1"
    assert await code(values.fill("leased", lease, b"1", ["user:1"])) == ("ABORTED", "LEASE_LOST")
    await values.set("again", b"2", ["user:1"])
    assert (await values.get("again"))[0] == b"2"
    assert (await values.stats()).bytes <= 27_000


async def test_a_scan_examines_a_bounded_number_of_keys(cache: Cache) -> None:
    """
    One call examines at most a thousand keys, however many match, and returns where to continue.
    """
    values = Values(cache, "large")
    for batch in range(3):
        await values.set_many((f"{batch}-{number:03}" for number in range(800)), b"", ["void"])
    await values.invalidate("void")
    await values.set("last", b"1")
    pages = await values.scan(page_size=1)
    assert list(chain(*pages)) == ["last"]
    assert 2 <= len(pages) <= 4


async def test_an_answer_is_bounded(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Values that are too large in total are rejected before Valkey reads them; a single one is always returned.
    """
    monkeypatch.setattr("services.cache.store.values._MOST_ANSWER_BYTES", 500)
    for key in ("a", "b"):
        await values.set(key, b"x" * 600)
    both = values.stub.BatchGet(pb.BatchGetRequest(namespace="small", keys=["a", "b"]))
    assert (await code(both))[0] == "RESOURCE_EXHAUSTED"
    assert (await values.get("a"))[0] == b"x" * 600


def test_the_shipped_namespaces_fit() -> None:
    """
    The quotas of the default namespaces leave half of the smallest Valkey's memory to the read-through cache.
    """
    quotas = [namespace.most_bytes for namespace in parse(NAMESPACES.read_text(encoding="utf-8")).values()]
    assert sum(quotas) <= Valkey(0).max_memory / 2


async def test_a_full_valkey_keeps_account(target: str, namespaces: str) -> None:
    """
    A full Valkey evicts entries, but none of the bookkeeping: invalidated values stay invalidated, sizes stay counted,
    and both caches can still write.
    """
    with scratch() as state:
        supervisor, server = Supervisor(state / "log"), Valkey(free_port(), 16 * 2**20)
        await asyncio.to_thread(supervisor.start, [server.part()])
        try:
            async with running(target, Backend(server.url), MODELYARD_CACHE_NAMESPACES_FILE=namespaces) as cache:
                values = Values(cache)
                await values.set("revoked", b"1", ["user:1"])
                await values.invalidate("user:1")
                await cache.warm()
                with redis.Redis(port=server.port) as client:
                    before = client.hget(BASE + b"meta", "epoch")
                    with client.pipeline(transaction=False) as pipeline:
                        for number in range(1000):
                            pipeline.set(f"modelyard:r:{number}", b"x" * 40_000, ex=1000)
                        pipeline.execute()
                    assert client.info("stats")["evicted_keys"] > 300
                    assert client.hget(BASE + b"meta", "epoch") == before
                    assert client.exists(*(BASE + part for part in (b"tags", b"names", b"sizes", b"ends", b"log"))) == 5
                    untimed = [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
                assert {bytes(key).rpartition(b":")[2] for key in untimed} == PARTS
                assert (await values.get("revoked"))[0] is None
                await values.set("new", b"1", ["user:1"])
                assert (await values.get("new"))[0] == b"1"
        finally:
            await asyncio.to_thread(supervisor.stop)
