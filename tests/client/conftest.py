"""
Fixtures: commands at the suite's gateway, and a server that stores bytes and versions in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.stack import Stack
from tests.client.commands import Run, runner
from tests.client.limits import scale_down
from tests.client.memory import Memory, Server, serving
from tests.client.memory_registry import Registry


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The client's size limits at a sixteenth.
    """
    scale_down(monkeypatch.setattr)


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> str:
    """
    The gateway's host and port.
    """
    return stack.gateway


@pytest.fixture(scope="session")
def cli(gateway: str) -> Run:
    """
    Runs a command at the gateway.
    """
    return runner(gateway)


@pytest.fixture
def memory() -> Memory:
    """
    The state of the in-memory server.
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
    An in-memory asset service and registry.
    """
    with serving(memory, registry.serve) as running:
        yield running
