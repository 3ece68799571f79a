"""
The registry and the asset service with their real servers, without the gateway.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import modelyard
from services.embedded.stack import Stack, StackSettings
from services.embedded.testing import scratch


@pytest.fixture(scope="session")
def services() -> Iterator[Stack]:
    """
    Both services, started once.
    """
    with (
        scratch() as state,
        Stack(StackSettings(state=state / "stack", gateway_port=0, parts=("registry", "cdn"))) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def registry(services: Stack) -> str:
    """
    The address of the registry.
    """
    return _address(services, "registry")


@pytest.fixture(scope="session")
def cdn(services: Stack) -> str:
    """
    The address of the asset service.
    """
    return _address(services, "cdn")


@pytest.fixture(scope="session")
def yard(registry: str) -> Iterator[modelyard.Client]:
    """
    A client of the registry.
    """
    with modelyard.connect(registry) as client:
        yield client


@pytest.fixture(scope="session")
def assets(cdn: str) -> Iterator[modelyard.Client]:
    """
    A client of the asset service.
    """
    with modelyard.connect(cdn) as client:
        yield client


def _address(services: Stack, name: str) -> str:
    host, port = services.services[name].addresses[0]
    return f"{host}:{port}"
