"""
Negative caching, private answers, stale-if-error, early refresh, and loads shared by the fleet.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from services.cache.tests.harness import NAME, Backend, Cache, Origin, running

MISSING = f"{NAME}-missing"


async def absent(cache: Cache, **metadata: str) -> dict[str, Any]:
    """
    The trailing metadata of a read of a missing model.
    """
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await cache.read(MISSING, **metadata)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such model")
    found: Any = failed.value.trailing_metadata()
    return dict(found)


async def test_not_found_is_cached(cache: Cache, origin: Origin) -> None:
    """
    A NOT_FOUND is loaded once, served unchanged from L1, and invalidated when the resource is created.
    """
    await cache.warm()
    calls = origin.calls
    first, second = await absent(cache), await absent(cache)
    assert origin.calls == calls + 1
    assert (first["x-cache"], second["x-cache"]) == ("miss", "near")
    assert first["grpc-status-details-bin"] == second["grpc-status-details-bin"] == b"details"
    revision = await origin.write("made", MISSING)
    assert (await cache.read(MISSING, x_min_revision=str(revision))).owner == "made"


async def test_an_absence_serves_other_processes(cache: Cache, other: Cache, origin: Origin) -> None:
    """
    A NOT_FOUND that one process loaded is shared through L2.
    """
    await cache.warm()
    await absent(cache)
    calls = origin.calls
    async with asyncio.timeout(15):
        while (await absent(other))["x-cache"] == "miss":
            await asyncio.sleep(0.02)
    assert origin.calls <= calls + 1


async def test_an_absence_has_its_own_time(target: str, store: Backend, origin: Origin) -> None:
    """
    Its TTL is MODELYARD_CACHE_TTL_ABSENT_SECONDS, independent of the TTL of answers.
    """
    async with running(target, store, MODELYARD_CACHE_TTL_ABSENT_SECONDS="0.3") as cache:
        await cache.warm()
        await absent(cache)
        calls = origin.calls
        await asyncio.sleep(0.4)
        assert (await absent(cache))["x-cache"] == "miss"
        assert origin.calls == calls + 1


async def test_a_private_answer_is_for_its_caller(cache: Cache, origin: Origin) -> None:
    """
    A private answer is never cached, nor returned to callers that joined the load.
    """
    await cache.warm()
    await origin.write("x", f"{NAME}-own")
    origin.private = True
    origin.gate.clear()
    reads = [
        asyncio.create_task(cache.read(f"{NAME}-own", x_modelyard_subject=subject)) for subject in ("ann", "bob", "cat")
    ]
    await asyncio.sleep(0.3)
    origin.gate.set()
    assert [answer.owner for answer in await asyncio.gather(*reads)] == ["ann", "bob", "cat"]
    assert (await cache.read(f"{NAME}-own", x_modelyard_subject="dan")).owner == "dan"


async def test_late_answers_while_the_origin_is_away(target: str, store: Backend, origin: Origin) -> None:
    """
    An expired answer is served as stale while the origin is unavailable, but not with no-cache, and never older than
    the caller's minimum revision.
    """
    async with running(target, store, MODELYARD_CACHE_TTL_MODELS_SECONDS="0.5") as cache:
        await cache.warm()
        origin.away = True
        async with asyncio.timeout(15):
            while (answer := await cache.read()).cache != "stale":
                await asyncio.sleep(0.05)
        assert (answer.owner, answer.trailing["x-revision"]) == ("first", str(origin.revision))
        for refused in ({"cache_control": "no-cache"}, {"x_min_revision": "99999"}):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await cache.read(**refused)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        origin.away = False
        assert (await cache.read()).cache == "miss"


async def test_an_invalidated_answer_is_not_served_stale(target: str, store: Backend, origin: Origin) -> None:
    """
    An answer known to have changed is not served, even while the origin is unavailable.
    """
    async with running(target, store) as cache:
        await cache.warm()
        origin.away = True
        await origin.write("second")
        async with asyncio.timeout(15):
            while True:
                try:
                    assert (await cache.read()).owner == "first"
                except grpc.aio.AioRpcError as failed:
                    assert failed.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - it comes sooner or later
                    break
                await asyncio.sleep(0.01)


async def test_grace_ends(target: str, store: Backend, origin: Origin) -> None:
    """
    After the grace period, an answer is no longer served.
    """
    times = {"MODELYARD_CACHE_TTL_MODELS_SECONDS": "0.2", "MODELYARD_CACHE_GRACE_SECONDS": "0.3"}
    async with running(target, store, **times) as cache:
        await cache.read()
        origin.away = True
        await asyncio.sleep(0.8)
        with pytest.raises(grpc.aio.AioRpcError):
            await cache.read()


async def test_an_origin_that_hangs_is_not_waited_for(target: str, store: Backend, origin: Origin) -> None:
    """
    An expired answer is served as stale when the origin accepts the call and does not respond.
    """
    async with running(target, store, MODELYARD_CACHE_TTL_MODELS_SECONDS="0.3") as cache:
        await cache.warm()
        origin.gate.clear()
        await asyncio.sleep(0.4)
        async with asyncio.timeout(15):
            assert (await cache.read()).cache == "stale"
        origin.gate.set()


async def test_what_valkey_has_is_looked_up_before_an_origin_that_hangs(
    target: str, store: Backend, origin: Origin
) -> None:
    """
    A process with an empty L1, while the stream is silent and the origin does not respond, serves the entry from L2 as
    stale, long before the caller's deadline.
    """
    async with (
        running(target, store) as cache,
        running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as other,
    ):
        await cache.warm()
        await origin.write("x", f"{NAME}-other")
        await other.warm(f"{NAME}-other")
        origin.silent = True
        async with asyncio.timeout(15):
            while (await other.read(f"{NAME}-other")).cache != "bypass":
                await asyncio.sleep(0.05)
        origin.gate.clear()
        async with asyncio.timeout(15):
            assert (await other.read()).cache == "stale"
        origin.gate.set()


async def test_hot_entries_are_renewed_before_they_expire(target: str, store: Backend, origin: Origin) -> None:
    """
    Under steady reads an entry that is slow to load never expires: no read waits, and the origin is called again.
    """
    async with running(target, store, MODELYARD_CACHE_TTL_MODELS_SECONDS="3") as cache:
        # So slow that more than ten of the reads before its last 0.5 seconds are expected to refresh it.
        origin.slowness = 0.5
        await cache.warm()
        calls, seen, times = origin.calls, set(), [time.monotonic()]
        for _ in range(400):
            read = await cache.read()
            # Where the process stalled, or was too slow for steady reads, so was the refresh.
            times.append(time.monotonic())
            if times[-1] - times[-2] < 0.2 and times[-1] - times[-50:][0] < 1.0:
                seen.add(read.cache)
            await asyncio.sleep(0.01)
        assert seen <= {"near"}
        assert origin.calls > calls


async def test_one_load_in_the_fleet(cache: Cache, other: Cache, origin: Origin) -> None:
    """
    Concurrent misses in several processes call the origin once.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    await asyncio.sleep(0.2)
    calls, origin.slowness = origin.calls, 0.2
    answers = await asyncio.gather(*(each.read(f"{NAME}-cold") for each in (cache, other) for _ in range(50)))
    assert {answer.owner for answer in answers} == {"cold"}
    assert origin.calls == calls + 1


async def test_a_load_that_has_just_ended_is_found(cache: Cache, other: Cache, origin: Origin) -> None:
    """
    A process that misses, and acquires the lease only because another load has just ended, does not load again.
    """
    await cache.warm()
    names = [f"{NAME}-cold-{number}" for number in range(30)]
    for name in names:
        await origin.write("cold", name)
    await asyncio.sleep(0.2)
    calls = origin.calls
    for name in names:
        await asyncio.gather(*(each.read(name) for each in (cache, other) for _ in range(30)))
    assert origin.calls == calls + len(names)


async def test_a_loader_that_is_stuck_is_waited_for_only_so_long(target: str, store: Backend, origin: Origin) -> None:
    """
    After the lease wait, a process that waits for another's load calls the origin itself.
    """
    brief = {"MODELYARD_CACHE_LEASE_WAIT_SECONDS": "0.5"}
    async with running(target, store) as cache, running(target, store, **brief) as other:
        await cache.warm()
        await other.warm()
        await origin.write("cold", f"{NAME}-cold")
        calls = origin.calls
        origin.gate.clear()
        first = asyncio.create_task(cache.read(f"{NAME}-cold"))
        async with asyncio.timeout(15):
            while origin.calls < calls + 1:
                await asyncio.sleep(0.01)
        second = asyncio.create_task(other.read(f"{NAME}-cold"))
        async with asyncio.timeout(15):
            while origin.calls < calls + 2:
                await asyncio.sleep(0.02)
        origin.gate.set()
        assert {(await first).owner, (await second).owner} == {"cold"}


async def test_a_load_asks_for_what_is_known(cache: Cache, origin: Origin) -> None:
    """
    A load requires the newest revision known to have touched its tags: a replica further behind would return an answer
    that is already invalid.
    """
    await cache.warm()
    revision = await origin.write("second")
    async with asyncio.timeout(15):
        while (await cache.read()).owner != "second":
            await asyncio.sleep(0.01)
    assert origin.minimums[-1] == revision
