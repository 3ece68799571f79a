"""
Waiting for one of our own connections says nothing of Valkey.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.cache.store.valkey import Busy, Valkey


async def slow(_client: Any) -> str:
    """
    A command that takes its time, and less than it may.
    """
    await asyncio.sleep(0.05)
    return "done"


async def test_the_clock_starts_with_the_connection(valkey: Any) -> None:
    """
    Who waits longer for a connection than a command may take is served all the same.
    """
    server = Valkey(valkey.url, timeout=0.1, connections=1)
    assert await asyncio.gather(*(server.run(slow) for _ in range(20))) == ["done"] * 20
    assert (server.unreachable, server.breakers.opened) == (0, 0)
    await server.close()


async def test_waiting_is_bounded_where_there_is_somebody_else_to_ask(valkey: Any) -> None:
    """
    Whoever may not wait so long is told that we are busy, and Valkey is not blamed.
    """
    server = Valkey(valkey.url, timeout=0.1, patience=0.01, connections=1)
    found = await asyncio.gather(*(server.run(slow) for _ in range(20)), return_exceptions=True)
    assert found[0] == "done"
    assert all(isinstance(each, Busy) for each in found[1:]), found
    assert (server.unreachable, server.breakers.opened) == (0, 0)
    await server.close()


async def test_those_who_wait_are_told_when_it_is_silent() -> None:
    """
    When those before have found nobody there, the others do not wait for the same.
    """
    server, asked = Valkey("redis://127.0.0.1:1/0", timeout=0.1, connections=1), []

    async def ask(client: Any) -> None:
        asked.append(client)
        await client.ping()

    found = await asyncio.gather(*(server.run(ask) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, Exception) for each in found)
    assert (len(asked), server.breakers.opened) == (3, 1)
    await server.close()


@pytest.mark.parametrize("count", [1, 5])
async def test_a_caller_that_gives_up_gives_its_turn_back(valkey: Any, count: int) -> None:
    """
    Callers that are cancelled, with a connection or without one, take nothing with them.
    """
    server = Valkey(valkey.url, timeout=5, connections=1)
    tasks = [asyncio.create_task(server.run(slow)) for _ in range(count)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await server.run(slow) == "done"
    await server.close()
