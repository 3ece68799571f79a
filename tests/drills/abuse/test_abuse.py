"""
Attacks on the gateway of the running suite: each gets what it has to, the gateway's memory stays bounded, and those who
behave are served as before. `make drill-abuse` measures by how much slower.
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

import psutil
import pytest

import modelyard
from embedded.stack import Stack
from modelyard.cache.v1 import cache_pb2
from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from tests.drills.abuse.attacks import ATTACKS
from tests.drills.abuse.keyvalue import VALKEY

pytestmark = pytest.mark.alone
_MIB = 1 << 20
_GROWTH = 150 * _MIB
_NAMESPACE = namespaces_pb2.GetNamespaceRequest(name="namespaces/default")


@dataclass(slots=True)
class Others:
    """
    Clients that behave.

    Attributes:
        took: the seconds of each read.
        calls: how many calls they made: reads, and now and then a write, an upload and a value.
        failed: what those that failed ended with.
    """

    took: list[float] = field(default_factory=list)
    calls: int = 0
    failed: list[Exception] = field(default_factory=list)

    def read(self, yard: modelyard.Client) -> None:
        """
        Read, and take the time.
        """
        began = time.perf_counter()
        self._do(lambda: yard.namespaces.GetNamespace(_NAMESPACE, timeout=10))
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
        self._do(lambda: yard.models.CreateModel(made, timeout=10))
        self._do(lambda: yard.assets.Upload(iter(whole), timeout=10))
        self._do(lambda: yard.keyvalue.Set(value, timeout=10))

    def _do(self, call: Callable[[], object]) -> None:
        self.calls += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001 - looked at afterwards
            self.failed.append(error)


@contextmanager
def others(gateway: str) -> Iterator[Others]:
    """
    Clients that call on and on while the block lasts: one reads, the other one writes.
    """
    found, enough = Others(), threading.Event()

    def go_on(work: Callable[[modelyard.Client], None], pause: float) -> None:
        # Without the client's own retries, which would hide what happens.
        with modelyard.connect(gateway, options=[("grpc.enable_retries", 0)]) as yard:
            while not enough.is_set():
                work(yard)
                enough.wait(pause)

    threads = [
        threading.Thread(target=go_on, args=(found.read, 0.005)),
        threading.Thread(target=go_on, args=(found.write, 0.2)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        enough.set()
        for thread in threads:
            thread.join()


@contextmanager
def behaving(gateway: str) -> Iterator[None]:
    """
    The same; fails when one of their calls does.
    """
    with others(gateway) as found:
        yield
    assert not found.failed, found.failed[0]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_gateway_stands_it(stack: Stack, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The attack gets its status, the gateway is the same process and no fatter, and who behaves is served.
    """
    monkeypatch.setenv(VALKEY, stack.valkey.whole_url)
    port = int(stack.gateway.rpartition(":")[2])
    (gateway,) = psutil.Process(stack.pid("gateway")).children()
    before = gateway.memory_info().rss
    with behaving(stack.gateway):
        asyncio.run(ATTACKS[name](port))
    assert gateway.is_running()
    assert gateway.memory_info().rss - before < _GROWTH
