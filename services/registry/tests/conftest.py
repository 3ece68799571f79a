"""
A migrated database and a registry on it for each test.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest

from services.registry.tests.yard import Registry, running

# Starting a server as another user forks, and grpcio's fork handlers crash the child now and then while calls are under
# way. Nothing here uses gRPC on both sides of a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture
async def registry(database: str) -> AsyncIterator[Registry]:
    """
    A registry of one's own.
    """
    async with running(database) as found:
        yield found


@pytest.fixture(scope="session")
async def shared(new_database: Callable[[], str]) -> AsyncIterator[Registry]:
    """
    A registry for tests that bring a namespace of their own, or write nothing.
    """
    async with running(new_database()) as found:
        yield found
