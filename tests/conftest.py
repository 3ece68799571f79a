from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import modelyard
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """
    The whole suite, started once per run, on free ports with a state folder of its own.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        with modelyard.connect(running.gateway) as client:
            until_the_cache_answers(client)
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


def until_the_cache_answers(client: modelyard.Client) -> None:
    """
    Right after the start the gateway may ask the registry in place of a cache that has no connection to it yet.
    """
    get: Any = client.models.GetModel
    ends = time.monotonic() + 30
    while True:
        try:
            _, call = get.with_call(models_pb2.GetModelRequest(name="namespaces/default/models/nothing"))
        except grpc.RpcError as error:
            call = error
        if "x-cache" in dict(call.trailing_metadata()):
            return
        assert time.monotonic() < ends
        time.sleep(0.05)
