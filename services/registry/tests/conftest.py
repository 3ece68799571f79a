"""
A migrated database and a registry on it for each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from modelyard.registry.v1 import namespaces_pb2
from services.registry.tests.calls import add_version, create, deploy, move, record, result, write_card
from services.registry.tests.databases import Databases
from services.registry.tests.guarded import Guarded, guarding
from services.registry.tests.server import RecycledRegistry, Registry, running


@pytest.fixture(scope="session")
async def databases(new_database: Callable[[], str]) -> AsyncIterator[Databases]:
    """
    The database that tests with registries of their own use one after the other.
    """
    found = Databases(new_database)
    yield found
    await found.close()


@pytest.fixture
async def database(databases: Databases) -> AsyncIterator[str]:
    """
    The URL of a migrated database with its initial rows, for the service's role.
    """
    yield await databases.acquire()
    await databases.release()


@pytest.fixture(scope="session")
async def recycled(new_database: Callable[[], str]) -> AsyncIterator[RecycledRegistry]:
    """
    The registry that tests use one after the other.
    """
    async with RecycledRegistry(Databases(new_database)) as found:
        yield found


@pytest.fixture
async def registry(recycled: RecycledRegistry) -> AsyncIterator[Registry]:
    """
    A registry on a database in its initial state. It stays for the next test: a test that stops it or blocks its
    connections serves its own (`running`).
    """
    yield await recycled.acquire()
    await recycled.release()


@pytest.fixture(scope="session")
async def shared(new_database: Callable[[], str]) -> AsyncIterator[Registry]:
    """
    A registry for tests that use a namespace of their own, or write nothing.
    """
    async with running(new_database()) as found:
        yield found


@pytest.fixture(scope="module")
async def new_registry(new_database: Callable[[], str]) -> AsyncIterator[Registry]:
    """
    A registry for the tests of one module.
    """
    async with running(new_database()) as found:
        yield found


@pytest.fixture(scope="session")
async def full(shared: Registry) -> Registry:
    """
    A registry in which every list has more than one row.
    """
    for model in ("m", "n"):
        await create(shared, model)
        await add_version(shared, model)
        await add_version(shared, model)
        await record(shared, *(result(model, 1 + n % 2, "imagenet", "top1", n) for n in range(4)))
        for number in (1, 2, 1):
            await move(shared, model, ("a", number), ("b", number))
    for number in range(3):
        await write_card(shared, "m", markdown=f"# m {number}")
    for deployment in ("d", "e"):
        await deploy(shared, deployment, "m")
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="other"))
    return shared


@pytest.fixture(scope="session")
async def guarded(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """
    A registry with access control on, for tests that use a namespace of their own.
    """
    async with guarding(new_database(), tmp_path_factory.mktemp("keys") / "jwks.json") as found:
        yield found
