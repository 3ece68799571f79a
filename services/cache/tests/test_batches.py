"""
Batched gets, on a real Valkey.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.cache.store.batches import BatchedGets
from services.cache.store.valkey import Unreachable, Valkey


async def test_no_caller_is_left_behind(valkey: Any) -> None:
    """
    A request that arrives at the moment when all round trips end is answered.
    """
    server = Valkey(valkey.url, timeout=1.0)
    await server.run(lambda client: client.set(b"k", b"v"))
    gets, gate = BatchedGets(server), asyncio.Event()
    ask = gets._values

    async def together(keys: list[bytes]) -> Any:
        found = await ask(keys)
        await gate.wait()
        return found

    gets._values = together  # type: ignore[method-assign] # so that two round trips end in the same moment

    async def twice() -> None:
        assert await gets.get(b"k") == b"v"
        assert await gets.get(b"k") == b"v"

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(twice())
        await asyncio.sleep(0.1)
        tasks.create_task(gets.get(b"k"))
        await asyncio.sleep(0.1)
        gate.set()
    await server.close()


@pytest.mark.parametrize("garbage", [b"OK", 7, [], None])
async def test_an_answer_of_another_shape_reaches_nobody(valkey: Any, garbage: object) -> None:
    """
    When the answer of a round trip does not have one value per key, all its callers get an error at once.
    """
    server = Valkey(valkey.url, timeout=1.0)
    gets = BatchedGets(server)

    async def answers(_keys: list[bytes]) -> Any:
        return garbage

    gets._values = answers  # type: ignore[method-assign, assignment] # no server can be brought to this through a real client
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(gets.get(b"k") for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, Unreachable) for one in found), found
    await server.close()


async def test_an_unforeseen_error_leaves_nobody_waiting(valkey: Any) -> None:
    """
    On any exception in a round trip, its callers get an error, and the lanes are free for the next requests.
    """
    server = Valkey(valkey.url, timeout=1.0)
    await server.run(lambda client: client.set(b"k", b"v"))
    gets = BatchedGets(server)
    ask = gets._values

    async def mistaken(_keys: list[bytes]) -> Any:
        raise ZeroDivisionError("a mistake")

    gets._values = mistaken  # type: ignore[method-assign, assignment] # stands for a programming error
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(gets.get(b"k") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(one, Unreachable) for one in found), found
        gets._values = ask  # type: ignore[method-assign]
        assert await asyncio.gather(*(gets.get(b"k") for _ in range(5))) == [b"v"] * 5
    await server.close()
