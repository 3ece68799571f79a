from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import modelyard
from services.embedded.stack import Stack, StackSettings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """
    The whole suite, started once per run, on free ports with a state folder of its own.
    """
    with Stack(StackSettings(state=Path(tmp_path_factory.mktemp("stack")), gateway_port=0)) as running:
        yield running


@pytest.fixture(scope="session")
def yard(stack: Stack) -> Iterator[modelyard.Client]:
    """
    A client of the suite's gateway.
    """
    with modelyard.connect(stack.gateway) as client:
        yield client
