"""
The suite's gateway, and a server whose bytes and versions are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.stack import Stack
from tests.client.memory import Memory, Server, serving
from tests.client.memory_registry import Registry


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> str:
    """
    The address of the gateway.
    """
    return stack.gateway


@pytest.fixture
def memory() -> Memory:
    """
    What the server holds.
    """
    return Memory()


@pytest.fixture
def registry(memory: Memory) -> Registry:
    """
    The versions of the model m.
    """
    return Registry(memory)


@pytest.fixture
def server(memory: Memory, registry: Registry) -> Iterator[Server]:
    """
    A server of both.
    """
    with serving(memory, registry.serve) as running:
        yield running
