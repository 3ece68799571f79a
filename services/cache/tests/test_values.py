"""
The key-value cache, on one Valkey and on a cluster.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import grpc
import pytest

from modelyard.cache.v1 import cache_pb2 as pb
from services.cache.invalidation_feed import InvalidationFeed, _broken
from services.cache.model.namespaces import Namespace, parse
from services.cache.model.values import Log
from services.cache.store.values import ValueStore
from services.cache.tests.harness import NAME, Backend, Cache, Origin, running
from services.cache.tests.values_client import SMALL, Values, code, seconds


async def test_a_value_comes_back(values: Values) -> None:
    """
    A value is returned with its tags and its expiry until it is deleted.
    """
    value = os.urandom(500)
    await values.set("a/b:c", value, ["user:1"])
    answer = await values.stub.Get(pb.GetRequest(namespace="small", key="a/b:c"))
    assert (answer.entry.value, list(answer.entry.tags)) == (value, ["user:1"])
    assert answer.HasField("expire_time")
    deleted = await values.stub.Delete(pb.DeleteRequest(namespace="small", keys=["a/b:c", "none"]))
    assert deleted.deleted_count == 1
    assert await code(values.stub.Get(pb.GetRequest(namespace="small", key="a/b:c"))) == ("NOT_FOUND", "KEY_NOT_FOUND")


async def test_values_expire(values: Values) -> None:
    """
    A value expires after its own TTL, and Touch sets another one, longer or shorter.
    """
    await values.set("short", b"1", ttl=0.2)
    await values.set("prolonged", b"1", ttl=30)
    await values.set("shortened", b"1")
    await values.stub.Touch(pb.TouchRequest(namespace="small", key="prolonged", ttl=seconds(100)))
    await values.stub.Touch(pb.TouchRequest(namespace="small", key="shortened", ttl=seconds(0.2)))
    async with asyncio.timeout(30):
        for key in ("short", "shortened"):
            while (await values.get(key))[0] is not None:
                await asyncio.sleep(0.01)
    prolonged = await values.stub.Get(pb.GetRequest(namespace="small", key="prolonged"))
    assert prolonged.entry.value == b"1"
    assert prolonged.expire_time.seconds > time.time() + 40
    touch = values.stub.Touch(pb.TouchRequest(namespace="small", key="short"))
    assert await code(touch) == ("NOT_FOUND", "KEY_NOT_FOUND")


async def test_many_at_once(values: Values) -> None:
    """
    A batch is stored and read in one call, in the order of the keys and without those that do not exist.
    """
    entries = [pb.Entry(key=f"k{number}", value=str(number).encode()) for number in range(30)]
    await values.stub.BatchSet(pb.BatchSetRequest(namespace="small", entries=entries))
    keys = [f"k{number}" for number in range(40, -1, -1)]
    found = await values.stub.BatchGet(pb.BatchGetRequest(namespace="small", keys=keys))
    assert [entry.key for entry in found.entries] == [f"k{number}" for number in range(29, -1, -1)]


async def test_a_batch_with_a_bad_entry_stores_none(values: Values) -> None:
    """
    If one entry is too large for the namespace, none is stored, and the error names it.
    """
    entries = [pb.Entry(key="good", value=b"1"), pb.Entry(key="bad", value=b"x" * 1001)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await values.stub.BatchSet(pb.BatchSetRequest(namespace="small", entries=entries))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "entries[1].value" in str(refused.value.trailing_metadata())
    assert (await values.get("good"))[0] is None


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Get", pb.GetRequest(namespace="small", key="a b"), "key"),
        ("Get", pb.GetRequest(namespace="small", key=""), "key"),
        ("Get", pb.GetRequest(namespace="small", key="é"), "key"),
        ("Get", pb.GetRequest(namespace="small", key="k" * 513), "key"),
        ("Get", pb.GetRequest(namespace="nowhere", key="k"), "namespace"),
        ("BatchGet", pb.BatchGetRequest(namespace="small"), "keys"),
        ("BatchGet", pb.BatchGetRequest(namespace="small", keys=["k"] * 1001), "keys"),
        ("Set", pb.SetRequest(namespace="small", entry=pb.Entry(key="k", tags=["t"] * 17)), "entry.tags"),
        ("Set", pb.SetRequest(namespace="small", entry=pb.Entry(key="k", ttl=seconds(121))), "entry.ttl"),
        ("Set", pb.SetRequest(namespace="small", entry=pb.Entry(key="k", ttl=seconds(0))), "entry.ttl"),
        ("InvalidateTags", pb.InvalidateTagsRequest(namespace="small", tags=["a\n"]), "tags[0]"),
        ("GetOrLease", pb.GetOrLeaseRequest(namespace="small", key="k", lease_duration=seconds(61)), "lease_duration"),
        ("Fill", pb.FillRequest(namespace="small", lease_token="x", entry=pb.Entry(key="k")), "lease_token"),
        ("Scan", pb.ScanRequest(namespace="small", page_size=-1), "page_size"),
        ("Scan", pb.ScanRequest(namespace="small", page_token="x"), "page_token"),
    ],
)
async def test_bad_input_is_named(values: Values, method: str, request_: Any, field: str) -> None:
    """
    An invalid request is INVALID_ARGUMENT with the name of the field.
    """
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(values.stub, method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(refused.value.trailing_metadata())


async def test_all_of_a_user_in_one_call(values: Values) -> None:
    """
    InvalidateTags invalidates every value with the tag, but none that is stored later or has another tag.
    """
    for number in range(20):
        await values.set(f"session-{number}", b"s", [f"user:{number % 2}", "all"])
    await values.invalidate("user:0")
    left = [number for number in range(20) if (await values.get(f"session-{number}"))[0]]
    assert left == list(range(1, 20, 2))
    await values.set("session-0", b"again", ["user:0", "all"])
    assert (await values.get("session-0"))[0] == b"again"
    assert (await values.stats()).entries >= 11


async def test_a_quota_answers(values: Values) -> None:
    """
    A full namespace rejects new values with CACHE_QUOTA, and accepts them once others were deleted or have expired.
    """
    stored = len(await values.fill_up())
    assert 5 < stored <= 27_000 // 900
    assert await code(values.set("refused", b"x" * 900)) == ("RESOURCE_EXHAUSTED", "CACHE_QUOTA")
    stats = await values.stats()
    assert (stats.entries, stats.bytes <= 27_000) == (stored, True)
    # The same size under the same key needs no further space.
    await values.set("filler-None-0006", b"y" * 900)
    await values.delete("filler-None-0006")
    await values.set("new", b"x" * 900)
    brief = [f"filler-None-{number:04}" for number in range(5)]
    for key in brief:
        await values.stub.Touch(pb.TouchRequest(namespace="small", key=key, ttl=seconds(0.1)))
    async with asyncio.timeout(30):
        while [value for key in brief if (value := (await values.get(key))[0]) is not None]:
            await asyncio.sleep(0.01)
    for number in range(5):
        await values.set(f"later-{number}", b"x" * 900)
    assert (await values.stats()).evictions == 5


async def test_one_caller_gets_the_lease(values: Values) -> None:
    """
    Of many callers of a missing key one gets a lease; the others get a retry delay, and later the value.
    """
    outcomes = await asyncio.gather(*(values.lease("cold") for _ in range(30)))
    leases = [each.lease for each in outcomes if each.WhichOneof("outcome") == "lease"]
    assert len(leases) == 1
    assert all(each.retry_delay.nanos > 0 for each in outcomes if each.WhichOneof("outcome") == "retry_delay")
    await values.fill("cold", leases[0].token, b"filled")
    assert (await values.lease("cold")).entry.value == b"filled"


async def test_an_overtaken_filler_writes_nothing(values: Values) -> None:
    """
    A lease is lost when it expires, when the key is set or deleted, when a tag of the value is invalidated, and when
    it has been used.
    """

    async def ended(key: str, token: str) -> None:
        await asyncio.sleep(0.1)

    async def set_since(key: str, token: str) -> None:
        await values.set(key, b"newer")

    async def deleted(key: str, token: str) -> None:
        await values.stub.Delete(pb.DeleteRequest(namespace="small", keys=[key]))

    async def invalidated(key: str, token: str) -> None:
        await values.invalidate("tag")

    async def used(key: str, token: str) -> None:
        await values.fill(key, token, b"newer")

    async def leased_again(key: str, token: str) -> None:
        await asyncio.sleep(0.1)
        assert (await values.lease(key)).lease.token > token

    for overtake in (ended, set_since, deleted, invalidated, used, leased_again):
        key = overtake.__name__
        token = (await values.lease(key, 0.05 if overtake in (ended, leased_again) else 5)).lease.token
        await overtake(key, token)
        fill = values.fill(key, token, b"old", ["tag"])
        assert await code(fill) == ("ABORTED", "LEASE_LOST"), key
        assert (await values.get(key))[0] in (None, b"newer")


async def test_counters(values: Values) -> None:
    """
    Concurrent increments add up exactly; a value that is not an integer is rejected, and so is an overflow.
    """
    await asyncio.gather(*(values.increment("counter", delta) for delta in (1, 2, -3, 0) for _ in range(25)))
    assert await values.increment("counter", 5) == 30
    assert (await values.get("counter"))[0] == b"30"
    await values.set("text", b"no number")
    assert await code(values.increment("text")) == ("FAILED_PRECONDITION", "NOT_A_COUNTER")
    await values.set("large", str(2**63 - 1).encode())
    assert await code(values.increment("large")) == ("FAILED_PRECONDITION", "OVERFLOW")
    assert (await values.get("large"))[0] == str(2**63 - 1).encode()


async def test_more_callers_than_connections(values: Values, cache: Cache) -> None:
    """
    Concurrent calls wait for a connection in a queue of the client: none fails, and no circuit breaker opens.
    """
    counters = ("modelyard_cache_breaker_opened_total", "modelyard_cache_valkey_unreachable_total")
    before = [cache.number(counter) for counter in counters]
    await asyncio.gather(*(values.increment("busy", 1) for _ in range(200)))
    assert (await values.get("busy"))[0] == b"200"
    assert [cache.number(counter) for counter in counters] == before


async def test_more_callers_than_may_wait(values: Values, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When too many calls wait, further ones are rejected with RESOURCE_EXHAUSTED, and Valkey is not considered failed.
    """
    monkeypatch.setattr("services.cache.store.valkey._MOST_WAITING", 20)
    opened = cache.number("modelyard_cache_breaker_opened_total")
    found = await asyncio.gather(*(values.increment("busy", 1) for _ in range(120)), return_exceptions=True)
    counted = [each for each in found if isinstance(each, int)]
    refused = {each.code() for each in found if isinstance(each, grpc.aio.AioRpcError)}
    assert refused <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert sorted(counted) == list(range(1, len(counted) + 1))
    assert len(counted) >= 20
    assert cache.number("modelyard_cache_breaker_opened_total") == opened


async def test_scans_go_through_pages(values: Values) -> None:
    """
    Pages have the requested size, are in order and have each key once; a page token is valid for its own scan only.
    """
    keys = sorted([f"user:{number}" for number in range(25)] + ["user", "usfs", "other"])
    for key in keys:
        await values.set(key, b"")
    await values.set("user:gone", b"", ttl=0.01)
    await asyncio.sleep(0.05)
    found: list[str] = []
    token = ""
    while True:
        request = pb.ScanRequest(namespace="small", key_prefix="user", page_size=7, page_token=token)
        page = await values.stub.Scan(request)
        assert len(page.keys) <= 7
        found += page.keys
        token = page.next_page_token
        if not token:
            break
    assert found == [key for key in keys if key.startswith("user")]
    first = await values.stub.Scan(pb.ScanRequest(namespace="small", page_size=2))
    assert list(first.keys) == keys[:2]
    wrong = pb.ScanRequest(namespace="small", key_prefix="user", page_token=first.next_page_token)
    assert (await code(values.stub.Scan(wrong)))[0] == "INVALID_ARGUMENT"


async def test_a_lost_namespace_is_empty(values: Values, store: Backend) -> None:
    """
    Whichever part of a namespace Valkey loses, no invalidated value reappears, and no write fails.
    """
    for part in ("meta", "tags", "names", "sizes", "ends", "log"):
        await values.set("revoked", b"1", ["user:1"])
        await values.invalidate("user:1")
        with store.client() as client:
            client.delete(b"modelyard:v:{small}:" + part.encode())
        assert (await values.get("revoked"))[0] is None, part
        await values.set("new", b"2", ["user:1"])
        assert (await values.get("new"))[0] == b"2", part


async def test_reads_from_memory_follow_the_other_processes(cached: Cache, neighbour: Cache) -> None:
    """
    A namespace with L1 is served from there, and a change by another process is seen when it arrives through the log.
    """
    mine, theirs = Values(cached, "close"), Values(neighbour, "close")
    await mine.set("k", b"first", ["tag"])
    assert await mine.get("k") == (b"first", "shared")
    assert await mine.get("k") == (b"first", "near")
    for change, after in (
        (theirs.set("k", b"second", ["tag"]), b"second"),
        (theirs.invalidate("tag"), None),
        (theirs.set("k", b"third"), b"third"),
    ):
        await change
        async with asyncio.timeout(30):
            while (await mine.get("k"))[0] != after:
                await asyncio.sleep(0.005)
        assert {(await mine.get("k"))[0] for _ in range(20)} == {after}


async def test_a_writer_reads_what_it_wrote(cached: Cache, neighbour: Cache) -> None:
    """
    A write is seen in its own process at once, in others with its sequence as `x-min-revision`.
    """
    mine, theirs = Values(cached, "close"), Values(neighbour, "close")
    for number in range(50):
        value = str(number).encode()
        entry = pb.Entry(key="k", value=value)
        call = mine.stub.Set(pb.SetRequest(namespace="close", entry=entry))
        await call
        sequence = str(dict(await call.trailing_metadata())["x-revision"])
        assert (await theirs.get("k", x_min_revision=sequence))[0] == value
        assert (await mine.get("k"))[0] == value


async def test_leases_respect_the_minimum_revision(cached: Cache, neighbour: Cache) -> None:
    """
    GetOrLease answers from L1 only with a value at least as new as requested, and reports the level.
    """
    mine, theirs = Values(cached, "close"), Values(neighbour, "close")
    for number in range(30):
        value = str(number).encode()
        call = mine.stub.Set(pb.SetRequest(namespace="close", entry=pb.Entry(key="k", value=value)))
        await call
        sequence = str(dict(await call.trailing_metadata())["x-revision"])
        request = pb.GetOrLeaseRequest(namespace="close", key="k")
        asked = theirs.stub.GetOrLease(request, metadata=(("x-min-revision", sequence),))
        assert (await asked).entry.value == value
        assert dict(await asked.trailing_metadata())["x-cache"] in ("near", "shared")
    fresh = theirs.stub.GetOrLease(request, metadata=(("cache-control", "no-cache"),))
    await fresh
    assert dict(await fresh.trailing_metadata())["x-cache"] == "shared"


async def test_slashes_in_keys_have_no_meaning(cached: Cache) -> None:
    """
    A change of a key does not invalidate L1 entries of other keys, not even of those that are its prefixes.
    """
    values = Values(cached, "close")
    await values.set("user/1", b"1", ["team/1"])
    await values.in_memory("user/1")
    await values.set("user/1/profile", b"1")
    await values.invalidate("team/1/a")
    assert await values.get("user/1") == (b"1", "near")


async def test_a_lost_log_ends_its_own_namespace_only(cached: Cache, store: Backend) -> None:
    """
    When the log of one namespace is lost, L1 keeps the entries of others, and the registry's answers.
    """
    values = Values(cached, "close")
    await cached.warm()
    await values.set("k", b"1")
    await values.in_memory("k")
    with store.client() as client:
        client.delete(b"modelyard:v:{close}:meta")
    async with asyncio.timeout(30):
        while (await values.get("k"))[0] is not None:
            await asyncio.sleep(0.01)
    assert (await cached.read()).cache == "near"
    assert cached.number("modelyard_cache_near_evictions_total", cause="cleared") == 0


async def test_a_gap_in_the_registrys_stream_ends_nothing_else(cached: Cache, origin: Origin) -> None:
    """
    When changes of the registry are missing, L1 keeps the values of the key-value cache, and the registry's answers
    are no longer served.
    """
    values = Values(cached, "close")
    await cached.warm()
    await values.set("k", b"1")
    await values.in_memory("k")
    breaks = cached.number("modelyard_cache_stream_breaks_total", service="registry")
    origin.revision += 1
    origin.owners[NAME] = "second"
    origin.oldest = origin.revision + 1
    await origin.break_streams()
    async with asyncio.timeout(30):
        while cached.number("modelyard_cache_stream_breaks_total", service="registry") == breaks:
            await asyncio.sleep(0.01)
        while (await cached.read()).owner != "second":
            await asyncio.sleep(0.01)
    assert await values.get("k") == (b"1", "near")


async def test_watch_tells_every_change_once(values: Values) -> None:
    """
    A watch streams what was set, deleted and invalidated, in order, and continues after a break. Deleting a key that
    does not exist is not a change.
    """
    sequence = await values.invalidate("begin")
    told: list[tuple[str, ...]] = []
    want = 12

    async def watch(until: int) -> None:
        nonlocal sequence
        async with asyncio.timeout(30):
            stream = values.stub.Watch(pb.WatchRequest(namespace="small", start_sequence=sequence + 1))
            async for event in stream:
                match event.WhichOneof("event"):
                    case "invalidation":
                        sequence = event.invalidation.sequence
                        told.append((*event.invalidation.keys, *event.invalidation.tags))
                    case "discontinuity_sequence":
                        raise AssertionError("nothing was cut off")
                if len(told) >= until:
                    stream.cancel()
                    return

    first = asyncio.create_task(watch(5))
    expected: list[tuple[str, ...]] = []
    for number in range(want // 3):
        await values.set(f"k{number}", b"1")
        await values.stub.Delete(pb.DeleteRequest(namespace="small", keys=[f"k{number}", "x"]))
        await values.invalidate("t1", "t2")
        expected += [(f"k{number}",), (f"k{number}",), ("t1", "t2")]
    await first
    await watch(want)
    assert told == expected


async def test_watchers_share_what_is_read(cached: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A change is read from Valkey once for all watchers, and sent to each of them.
    """
    # Each watcher also polls at this interval.
    monkeypatch.setattr("services.cache.service.values._HEARTBEAT_SECONDS", 60.0)
    values, read, follow, asked = Values(cached), ValueStore.log, InvalidationFeed._read, 0

    async def counted(self: ValueStore, namespace: Namespace, after: int) -> Log:
        nonlocal asked
        asked += 1
        return await read(self, namespace, after)

    async def uncounted(self: InvalidationFeed) -> None:
        nonlocal asked
        # The process's own read, which it repeats for as long as this takes.
        asked -= 1
        await follow(self)

    monkeypatch.setattr(ValueStore, "log", counted)
    monkeypatch.setattr(InvalidationFeed, "_read", uncounted)
    await values.set("k", b"1")
    streams = [values.stub.Watch(pb.WatchRequest(namespace="small"), timeout=20) for _ in range(30)]
    for stream in streams:
        assert (await stream.read()).HasField("applied_sequence")
    for number in range(3):
        before = asked
        await values.set(f"k{number}", b"2")
        for stream in streams:
            while not (event := await stream.read()).HasField("invalidation"):
                pass
            assert event.invalidation.keys == [f"k{number}"]
        assert asked - before < 10
    for stream in streams:
        stream.cancel()


async def test_a_watch_reports_discontinuities(values: Values, store: Backend) -> None:
    """
    A watch that starts before the log does, or whose log is lost, receives a discontinuity.
    """
    await values.set("k", b"1")

    async def first(start: int) -> str:
        stream = values.stub.Watch(pb.WatchRequest(namespace="small", start_sequence=start), timeout=10)
        async for event in stream:
            stream.cancel()
            return str(event.WhichOneof("event"))
        raise AssertionError("it ended")

    assert await first(1) == "discontinuity_sequence"
    assert await first(0) == "applied_sequence"
    stream = values.stub.Watch(pb.WatchRequest(namespace="small"), timeout=10)
    events: list[str] = []
    async for event in stream:
        events.append(str(event.WhichOneof("event")))
        if events[-1] == "discontinuity_sequence":
            stream.cancel()
            break
        with store.client() as client:
            client.flushall()
    await values.set("k", b"2")
    assert events[-1] == "discontinuity_sequence"


def test_a_log_that_was_set_back_is_broken() -> None:
    """
    After a failover that lost writes, a log may end before the position of a follower, which then starts over.
    """
    log = Log(7, 50, 10, (), complete=True)
    assert _broken(log, 7, 51)
    assert not _broken(log, 7, 50)


async def test_unavailable_without_valkey(target: str, namespaces: str) -> None:
    """
    Calls that need Valkey are UNAVAILABLE while it is.
    """
    async with running(target, Backend("redis://127.0.0.1:1/0"), MODELYARD_CACHE_NAMESPACES_FILE=namespaces) as cache:
        values = Values(cache)
        assert (await code(values.get("k")))[0] == "UNAVAILABLE"
        assert (await code(values.set("k", b"")))[0] == "UNAVAILABLE"
        assert (await code(values.increment("k")))[0] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Bad]\n", "[Bad]"),
        ("a = 1\n", "must be a table"),
        ("[a]\nttl_seconds = 1\n", "is missing"),
        (SMALL.replace("near = true", "nearby = true"), "[close] nearby"),
        (SMALL.replace("near = true", "near = 1"), "[close] near"),
        (SMALL.replace("= 1000", "= -1"), "[small] most_value_bytes"),
        (SMALL.replace("most_ttl_seconds = 120", "most_ttl_seconds = 1"), "[small] most_ttl_seconds"),
        ("[", "not TOML"),
    ],
)
def test_a_bad_file_of_namespaces_says_what_is_wrong(text: str, says: str) -> None:
    """
    An invalid namespaces file is rejected with the place and the fix.
    """
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse(text)
    assert says in str(refused.value)
