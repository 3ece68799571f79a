"""
What is answered while nobody tells what changes.
"""

from __future__ import annotations

import asyncio

from services.cache.tests.harness import NAME, Backend, Origin, running

COLD = f"{NAME}-cold"


async def test_no_load_from_before_the_bound_is_joined(target: str, store: Backend, origin: Origin) -> None:
    """
    While the stream is silent nobody knows whether the answer of a load that began earlier has been replaced: who comes
    later than the bound after it gets an answer of another one.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        await origin.write("old", COLD)
        await cache.warm()
        # Nor does a stream that is asked for meanwhile say anything.
        origin.silent, origin.always_late = True, 60.0
        async with asyncio.timeout(20):
            while (await cache.read()).cache != "bypass":
                await asyncio.sleep(0.05)
            calls = origin.calls
            origin.gate.clear()
            first = asyncio.create_task(cache.read(COLD))
            while origin.calls == calls:
                await asyncio.sleep(0.01)
            await origin.write("new", COLD)
            await asyncio.sleep(0.7)
            later = [asyncio.create_task(cache.read(COLD)) for _ in range(5)]
            await asyncio.sleep(0.2)
            origin.gate.set()
            assert {(await each).owner for each in later} == {"new"}
            assert (await first).owner == "old"
