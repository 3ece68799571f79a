"""
Attacks on the gateway of the running suite: each gets its response, the gateway's memory stays bounded, and the calls
of other clients succeed. `make drill-abuse` runs them at full size and measures how much slower other clients are
served.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import psutil
import pytest

import modelyard
from embedded.stack import Stack
from modelyard.cache.v1 import cache_pb2
from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from tests.drills.abuse.attacks import ATTACKS, Attack, slowloris, ten_thousand_streams, unreachable_revision
from tests.drills.abuse.keyvalue import VALKEY

_MIB = 1 << 20
_GROWTH = 150 * _MIB
_NAMESPACE = namespaces_pb2.GetNamespaceRequest(name="namespaces/default")


#: The attacks that `make test` runs at a smaller size than `make drill-abuse`.
_SMALLER: dict[str, Attack] = {
    "slowloris": partial(slowloris, count=20),
    "ten_thousand_streams": partial(ten_thousand_streams, count=2_000),
    "unreachable_revision": partial(unreachable_revision, count=20),
}
#: Calls of other clients that have to succeed during each attack.
_CALLS = 10


@dataclass(slots=True)
class NormalClients:
    """
    Calls of clients that do nothing wrong: reads, and now and then a write, an upload and a value.

    Attributes:
        took: the seconds of each read.
        calls: how many calls were made.
        failed: the error of each failed call.
    """

    took: list[float] = field(default_factory=list)
    calls: int = 0
    failed: list[Exception] = field(default_factory=list)

    def read(self, yard: modelyard.Client) -> None:
        """
        Read, and measure the time.
        """
        began = time.perf_counter()
        self._call(lambda: yard.namespaces.GetNamespace(_NAMESPACE, timeout=10))
        self.took.append(time.perf_counter() - began)

    def write(self, yard: modelyard.Client) -> None:
        """
        One of each kind of write.
        """
        model, data = uuid.uuid4().hex, uuid.uuid4().bytes
        made = models_pb2.CreateModelRequest(parent=_NAMESPACE.name, model_id=model, model=models_pb2.Model())
        header = assets_pb2.UploadRequest.Header(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        whole = [
            assets_pb2.UploadRequest(header=header),
            assets_pb2.UploadRequest(chunk=assets_pb2.Chunk(offset=0, data=data)),
        ]
        value = cache_pb2.SetRequest(namespace="shared", entry=cache_pb2.Entry(key=model, value=data))
        self._call(lambda: yard.models.CreateModel(made, timeout=10))
        self._call(lambda: yard.assets.Upload(iter(whole), timeout=10))
        self._call(lambda: yard.keyvalue.Set(value, timeout=10))

    def _call(self, call: Callable[[], object]) -> None:
        self.calls += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001 - checked afterwards
            self.failed.append(error)


@contextmanager
def normal_clients(gateway: str, pause: float = 0.005) -> Iterator[NormalClients]:
    """
    Clients that call repeatedly while the block lasts: one reads, the other one writes.

    Args:
        pause: seconds between two reads.
    """
    found, stop = NormalClients(), threading.Event()

    def work(call: Callable[[modelyard.Client], None], pause: float) -> None:
        # Without the client's own retries, which would hide failures.
        with modelyard.connect(gateway, options=[("grpc.enable_retries", 0)]) as yard:
            while not stop.is_set():
                call(yard)
                stop.wait(pause)

    threads = [
        threading.Thread(target=work, args=(found.read, pause)),
        threading.Thread(target=work, args=(found.write, 0.2)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def other_clients_succeed(gateway: str) -> Iterator[None]:
    """
    Check that all calls of other clients succeed while the block lasts, and that they make some.
    """
    with normal_clients(gateway, pause=0.05) as found:
        yield
        wanted, deadline = found.calls + _CALLS, time.monotonic() + 60
        while found.calls < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not found.failed, found.failed[0]
    assert found.calls >= _CALLS


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_gateway_withstands(stack: Stack, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The attack gets its response, the gateway is the same process, its memory is bounded, and other clients are served.
    """
    monkeypatch.setenv(VALKEY, stack.valkey.whole_url)
    port = int(stack.gateway.rpartition(":")[2])
    (gateway,) = psutil.Process(stack.pid("gateway")).children()
    before = gateway.memory_info().rss
    with other_clients_succeed(stack.gateway):
        asyncio.run(_SMALLER.get(name, ATTACKS[name])(port))
    assert gateway.is_running()
    assert gateway.memory_info().rss - before < _GROWTH
