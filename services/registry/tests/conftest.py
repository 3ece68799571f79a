"""
PostgreSQL once per run; a migrated database and a registry on it for each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from services.embedded.testing import database, migrated, new_database, postgres, servers
from services.registry.tests.yard import Registry, running

__all__ = ["database", "migrated", "new_database", "postgres", "servers"]


@pytest.fixture
async def registry(database: str) -> AsyncIterator[Registry]:  # noqa: F811 - pytest's way to ask for a fixture
    """
    A registry of one's own.
    """
    async with running(database) as found:
        yield found


@pytest.fixture(scope="session")
async def shared(new_database: Callable[[], str]) -> AsyncIterator[Registry]:  # noqa: F811
    """
    A registry for tests that bring a namespace of their own, or write nothing.
    """
    async with running(new_database()) as found:
        yield found
