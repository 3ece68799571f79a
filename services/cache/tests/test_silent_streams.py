"""
Reads while the change stream is silent.
"""

from __future__ import annotations

import asyncio

from services.cache.tests.harness import NAME, Backend, Origin, running

COLD = f"{NAME}-cold"


async def test_no_load_from_before_the_call_is_joined(target: str, store: Backend, origin: Origin) -> None:
    """
    While the stream is silent, nothing shows whether the result of a load that started earlier has been replaced. A
    later caller gets the result of a load that started after its call: otherwise the age of the load would add up with
    the lag of the replica that answered it, and exceed the staleness bound.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        await origin.write("old", COLD)
        await cache.warm()
        # Streams that are opened meanwhile are silent as well.
        origin.silent, origin.always_late = True, 60.0
        async with asyncio.timeout(30):
            while (await cache.read()).cache != "bypass":
                await asyncio.sleep(0.05)
            calls = origin.calls
            origin.gate.clear()
            first = asyncio.create_task(cache.read(COLD))
            while origin.calls == calls:
                await asyncio.sleep(0.01)
            await origin.write("new", COLD)
            waits = cache.number("modelyard_cache_waits_total", class_="models")
            later = [asyncio.create_task(cache.read(COLD)) for _ in range(5)]
            while cache.number("modelyard_cache_waits_total", class_="models") < waits + 5:
                await asyncio.sleep(0.01)
            origin.gate.set()
            assert {(await each).owner for each in later} == {"new"}
            assert (await first).owner == "old"
        # One load for the first caller, and one that the later callers share.
        assert origin.calls == calls + 2
