from __future__ import annotations

from collections.abc import Iterator

import pytest

import modelyard
from services.embedded.stack import Stack, StackSettings
from services.embedded.testing import scratch


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """
    The whole suite, started once per run, on free ports with a state folder of its own.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running
        # Its data goes with the run: writing it down in good order takes seconds.
        running.kill("s3")


@pytest.fixture(scope="session")
def yard(stack: Stack) -> Iterator[modelyard.Client]:
    """
    A client of the suite's gateway.
    """
    with modelyard.connect(stack.gateway) as client:
        yield client
