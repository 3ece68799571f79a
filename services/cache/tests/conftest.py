"""
A cache with an origin and an empty Valkey for each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from embedded.supervisor import Supervisor
from embedded.valkey import Valkey
from embedded.valkey_cluster import ValkeyCluster
from services.cache.model.coherence import Coherence
from services.cache.service import values as values_service
from services.cache.tests.harness import Backend, Cache, Origin, running, serving
from services.cache.tests.values_client import SMALL, Values

_CELLS = 1 << 12


@pytest.fixture(autouse=True, scope="session")
def small_coherence_tables() -> Iterator[None]:
    """
    Tables of 4,096 cells: allocating and clearing the 8 MiB of the real ones costs more than most of these tests. The
    rules do not depend on the size; test_coherence.py and test_schedules.py choose theirs.
    """
    defaults: Any = Coherence.__init__.__kwdefaults__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "cells", _CELLS)
        patch.setattr(values_service, "CELLS", _CELLS)
        yield


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


@pytest.fixture(scope="session")
def valkey_cluster(servers: tuple[Supervisor, Path]) -> ValkeyCluster:
    """
    Six Valkey servers that are one cluster.
    """
    supervisor, state = servers
    found = ValkeyCluster(state)
    found.start(supervisor)
    return found


@pytest.fixture(params=["standalone", "cluster"])
def store(request: pytest.FixtureRequest) -> Backend:
    """
    Valkey, alone and as a cluster, with nothing in it.
    """
    if request.param == "cluster":
        nodes: ValkeyCluster = request.getfixturevalue("valkey_cluster")
        nodes.clear()
        return Backend(nodes.url, cluster=True)
    valkey: Valkey = request.getfixturevalue("valkey")
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return Backend(valkey.url)


@pytest.fixture
async def cache(target: str, store: Backend) -> AsyncIterator[Cache]:
    """
    A cache.
    """
    async with running(target, store) as found:
        yield found


@pytest.fixture
def namespaces(tmp_path: Path) -> str:
    """
    The file of the namespaces.
    """
    path = tmp_path / "namespaces.toml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


@pytest.fixture
async def cached(target: str, store: Backend, namespaces: str) -> AsyncIterator[Cache]:
    """
    A cache with the namespaces.
    """
    async with running(target, store, MODELYARD_CACHE_NAMESPACES_FILE=namespaces) as found:
        yield found


@pytest.fixture
async def neighbour(cached: Cache, target: str, store: Backend, namespaces: str) -> AsyncIterator[Cache]:
    """
    Another process of the same cache.
    """
    async with running(target, store, MODELYARD_CACHE_NAMESPACES_FILE=namespaces) as found:
        yield found


@pytest.fixture
def values(cached: Cache) -> Values:
    """
    The namespace that is kept in Valkey alone.
    """
    return Values(cached)
