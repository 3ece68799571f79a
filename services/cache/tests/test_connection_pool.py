"""
Waiting for a pooled connection does not count as a failure of Valkey.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.cache.store.valkey import Busy, Valkey


async def slow(_client: Any) -> str:
    """
    A slow command, faster than the timeout.
    """
    await asyncio.sleep(0.05)
    return "done"


async def test_the_clock_starts_with_the_connection(valkey: Any) -> None:
    """
    The timeout of a command starts when it has a connection.
    """
    server = Valkey(valkey.url, timeout=0.1, connections=1)
    assert await asyncio.gather(*(server.run(slow) for _ in range(20))) == ["done"] * 20
    assert (server.unreachable, server.breakers.opened) == (0, 0)
    await server.close()


async def test_waiting_is_bounded_by_patience(valkey: Any) -> None:
    """
    A caller with bounded patience gets `Busy`, and no failure of Valkey is recorded.
    """
    server = Valkey(valkey.url, timeout=0.1, patience=0.01, connections=1)
    found = await asyncio.gather(*(server.run(slow) for _ in range(20)), return_exceptions=True)
    assert found[0] == "done"
    assert all(isinstance(each, Busy) for each in found[1:]), found
    assert (server.unreachable, server.breakers.opened) == (0, 0)
    await server.close()


async def test_waiting_callers_fail_when_the_breaker_opens() -> None:
    """
    When earlier commands found the server unreachable, waiting ones fail without trying.
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
async def test_a_cancelled_caller_releases_its_slot(valkey: Any, count: int) -> None:
    """
    Cancelled callers, with a connection or without one, release their slots.
    """
    server = Valkey(valkey.url, timeout=5, connections=1)
    tasks = [asyncio.create_task(server.run(slow)) for _ in range(count)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await server.run(slow) == "done"
    await server.close()
