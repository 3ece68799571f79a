"""
Attacks on the key-value cache, through the gateway and directly on its Valkey.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import redis
from google.protobuf.duration_pb2 import Duration

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.cache.v1.cache_pb2_grpc import KeyValueServiceStub

# The environment variable with the URL, including the password, of the Valkey to damage. Clients of the gateway cannot
# reach it: this simulates evictions and failovers.
VALKEY = "ABUSE_VALKEY_URL"
_PARTS = ("meta", "tags", "names", "sizes", "ends", "log")
# The namespaces that clients of the gateway may use.
_NAMESPACES = ("shared",)
_INCREMENTS = 1500
# The gateway queues calls above 512 per connection.
_CONNECTIONS = 4
_SECONDS = 30.0


async def script_damage(port: int) -> None:
    """
    Delete each key of a namespace's bookkeeping while it has expired values: calls succeed, and Valkey responds.
    """
    url = os.environ[VALKEY]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = KeyValueServiceStub(channel)
        with redis.Redis.from_url(url, socket_timeout=1) as valkey:
            for namespace in _NAMESPACES:
                for part in _PARTS:
                    brief = [_entry(f"brief-{number}", Duration(nanos=2_000_000)) for number in range(30)]
                    await stub.BatchSet(pb.BatchSetRequest(namespace=namespace, entries=brief), timeout=_SECONDS)
                    await asyncio.sleep(0.005)
                    valkey.delete(f"modelyard:v:{{{namespace}}}:{part}")
                    await _use(stub, namespace)
                    valkey.ping()


async def _use(stub: Any, namespace: str) -> None:
    """
    Use a namespace as a service does.
    """
    await stub.Set(pb.SetRequest(namespace=namespace, entry=_entry("revoked")), timeout=_SECONDS)
    await stub.InvalidateTags(pb.InvalidateTagsRequest(namespace=namespace, tags=["user:1"]), timeout=_SECONDS)
    await stub.Set(pb.SetRequest(namespace=namespace, entry=_entry("kept")), timeout=_SECONDS)
    await stub.Increment(pb.IncrementRequest(namespace=namespace, key="count"), timeout=_SECONDS)
    page = await stub.Scan(pb.ScanRequest(namespace=namespace), timeout=_SECONDS)
    keys = list(page.keys)
    while page.next_page_token:
        asked = pb.ScanRequest(namespace=namespace, page_token=page.next_page_token)
        page = await stub.Scan(asked, timeout=_SECONDS)
        keys += page.keys
    assert "kept" in keys
    assert "revoked" not in keys


def _entry(key: str, ttl: Duration | None = None) -> pb.Entry:
    return pb.Entry(key=key, value=b"x" * 100, tags=["user:1"], ttl=ttl)


async def burst_of_increments(port: int) -> None:
    """
    1,500 increments at once: each succeeds or is rejected with RESOURCE_EXHAUSTED; the circuit breaker stays closed.
    """
    async with AsyncExitStack() as stack:
        stubs: list[Any] = []
        for number in range(_CONNECTIONS):
            # Channels with equal options to one address share a connection.
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("abuse", number)])
            stubs.append(KeyValueServiceStub(await stack.enter_async_context(channel)))
        request = pb.IncrementRequest(namespace="shared", key="burst")
        calls = (stubs[number % _CONNECTIONS].Increment(request, timeout=_SECONDS) for number in range(_INCREMENTS))
        codes = Counter(await asyncio.gather(*(_code(call) for call in calls)))
        assert {code for code, _ in codes} <= {"OK", "RESOURCE_EXHAUSTED"}, codes
        assert codes["OK", ""], codes


async def _code(call: Awaitable[object]) -> tuple[str, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""
