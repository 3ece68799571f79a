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
from services.cache.tests.harness import Backend, Cache, Origin, SharedCaches, running, serving
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


@pytest.fixture(scope="module")
async def shared_origin() -> AsyncIterator[tuple[Origin, str]]:
    """
    The origin of the tests of a file, and its host:port.
    """
    found = Origin()  # type: ignore[abstract]  # it has the methods that the tests need
    async with serving(found) as address:
        yield found, address


@pytest.fixture(scope="module")
async def shared_caches(
    shared_origin: tuple[Origin, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SharedCaches]:
    """
    The caches of the tests of a file. Starting one takes more CPU time than most tests.
    """
    path = tmp_path_factory.mktemp("shared") / "namespaces.toml"
    path.write_text(SMALL, encoding="utf-8")
    caches = SharedCaches(shared_origin[1], MODELYARD_CACHE_NAMESPACES_FILE=str(path))
    yield caches
    await caches.close()


@pytest.fixture
async def origin(shared_origin: tuple[Origin, str]) -> Origin:
    """
    What is behind the cache, with one model.
    """
    shared_origin[0].reset()
    return shared_origin[0]


@pytest.fixture
def target(shared_origin: tuple[Origin, str], origin: Origin) -> str:
    """
    host:port of the origin.
    """
    return shared_origin[1]


@pytest.fixture(scope="session")
def valkey_cluster(servers: tuple[Supervisor, Path]) -> ValkeyCluster:
    """
    A Valkey cluster of six servers.
    """
    supervisor, state = servers
    found = ValkeyCluster(state)
    found.start(supervisor)
    return found


@pytest.fixture(params=["standalone", "cluster"])
def store(request: pytest.FixtureRequest) -> Backend:
    """
    An empty Valkey: a single server, and a cluster.
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
async def cache(origin: Origin, store: Backend, shared_caches: SharedCaches) -> Cache:
    """
    A cache with an empty L1. Its counters continue from earlier tests.
    """
    found = await shared_caches.of(store)
    await found.reset(origin)
    return found


@pytest.fixture
async def other(cache: Cache, origin: Origin, store: Backend, shared_caches: SharedCaches) -> Cache:
    """
    Another process of that cache.
    """
    found = await shared_caches.of(store, "other")
    await found.reset(origin)
    return found


@pytest.fixture
async def new_cache(target: str, store: Backend) -> AsyncIterator[Cache]:
    """
    A cache that was just started.
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
    A cache that was just started, with the namespaces.
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
def values(cache: Cache) -> Values:
    """
    The key-value client of a namespace without L1.
    """
    return Values(cache)
