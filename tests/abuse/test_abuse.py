"""
Attacks on the gateway of the running suite: each gets what it has to, the gateway's memory stays bounded, and those who
behave are served as before. `make drill-abuse` measures by how much slower.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

import modelyard
from modelyard.registry.v1 import namespaces_pb2
from services.embedded.stack import Stack
from tests.abuse.attacks import ATTACKS
from tests.abuse.keyvalue import VALKEY

pytestmark = pytest.mark.alone
_MIB = 1 << 20
_GROWTH = 150 * _MIB


@contextmanager
def behaving(gateway: str) -> Iterator[list[float]]:
    """
    A client that calls on and on; fails when a call of it does. Its calls' seconds.
    """
    took: list[float] = []
    enough, failed = threading.Event(), []

    def go_on() -> None:
        with modelyard.connect(gateway) as yard:
            while not enough.is_set():
                began = time.perf_counter()
                try:
                    yard.namespaces.GetNamespace(
                        namespaces_pb2.GetNamespaceRequest(name="namespaces/default"), timeout=10
                    )
                except Exception as error:  # noqa: BLE001 - looked at below
                    failed.append(error)
                took.append(time.perf_counter() - began)
                enough.wait(0.005)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield took
    finally:
        enough.set()
        thread.join()
    assert not failed, failed[0]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_gateway_stands_it(stack: Stack, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The attack gets its status, the gateway is the same process and no fatter, and who behaves is served.
    """
    monkeypatch.setenv(VALKEY, stack.valkey.url)
    port = int(stack.gateway.rpartition(":")[2])
    (gateway,) = psutil.Process(stack.pid("gateway")).children()
    before = gateway.memory_info().rss
    with behaving(stack.gateway):
        asyncio.run(ATTACKS[name](port))
    assert gateway.is_running()
    assert gateway.memory_info().rss - before < _GROWTH
