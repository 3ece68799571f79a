"""
A cache with an origin and an empty Valkey for each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis

from services.cache.tests.yard import Cache, Origin, running, serving
from services.embedded.valkey import Valkey


@pytest.fixture
async def origin() -> Origin:
    """
    What is behind the cache.
    """
    return Origin()  # type: ignore[abstract]  # it has the methods that the tests need


@pytest.fixture
async def target(origin: Origin) -> AsyncIterator[str]:
    """
    The origin's address.
    """
    async with serving(origin) as address:
        yield address


@pytest.fixture
def store(valkey: Valkey) -> str:
    """
    The address of Valkey with nothing in it.
    """
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return valkey.url


@pytest.fixture
async def cache(target: str, store: str) -> AsyncIterator[Cache]:
    """
    A cache.
    """
    async with running(target, store) as found:
        yield found
