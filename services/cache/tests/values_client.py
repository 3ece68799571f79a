"""
The key-value service of a running cache, for tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.cache.v1 import cache_pb2_grpc
from services.cache.tests.harness import Cache

SMALL = """
[small]
ttl_seconds = 60
most_ttl_seconds = 120
most_value_bytes = 1000
most_bytes = 27_000
near = false

[close]
ttl_seconds = 60
most_ttl_seconds = 120
most_value_bytes = 1000
most_bytes = 1_000_000
near = true

[large]
ttl_seconds = 60
most_ttl_seconds = 120
most_value_bytes = 2000
most_bytes = 4_000_000
near = false
"""


class Values:
    """
    The key-value service of a cache.
    """

    def __init__(self, cache: Cache, namespace: str = "small") -> None:
        self.stub: Any = cache_pb2_grpc.KeyValueServiceStub(cache.channel)
        self.namespace = namespace

    async def set(self, key: str, value: bytes, tags: Iterable[str] = (), ttl: float | None = None) -> None:
        """
        Store a value.
        """
        entry = pb.Entry(key=key, value=value, tags=tags, ttl=None if ttl is None else seconds(ttl))
        await self.stub.Set(pb.SetRequest(namespace=self.namespace, entry=entry))

    async def get(self, key: str, **metadata: str) -> tuple[bytes | None, str]:
        """
        The value of a key, and its level.
        """
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        call = self.stub.Get(pb.GetRequest(namespace=self.namespace, key=key), metadata=pairs)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None, "miss"
        return answer.entry.value, next(str(value) for key, value in await call.trailing_metadata() if key == "x-cache")

    async def in_memory(self, key: str) -> None:
        """
        Wait until a key is served from L1.
        """
        async with asyncio.timeout(30):
            while (await self.get(key))[1] != "near":
                await asyncio.sleep(0.01)

    async def lease(self, key: str, duration: float = 5) -> pb.GetOrLeaseResponse:
        """
        The value of a key, or a lease.
        """
        request = pb.GetOrLeaseRequest(namespace=self.namespace, key=key, lease_duration=seconds(duration))
        found: pb.GetOrLeaseResponse = await self.stub.GetOrLease(request)
        return found

    async def fill(self, key: str, token: str, value: bytes, tags: Iterable[str] = ()) -> None:
        """
        Use a lease.
        """
        entry = pb.Entry(key=key, value=value, tags=tags)
        await self.stub.Fill(pb.FillRequest(namespace=self.namespace, lease_token=token, entry=entry))

    async def invalidate(self, *tags: str) -> int:
        """
        Invalidate the values with the tags.
        """
        answer = await self.stub.InvalidateTags(pb.InvalidateTagsRequest(namespace=self.namespace, tags=tags))
        return int(answer.sequence)

    async def increment(self, key: str, delta: int = 0) -> int:
        """
        Add to a counter.
        """
        request = pb.IncrementRequest(namespace=self.namespace, key=key, delta=delta)
        return int((await self.stub.Increment(request)).value)

    async def scan(self, page_size: int = 0) -> list[list[str]]:
        """
        All keys, page by page.
        """
        pages: list[list[str]] = []
        token = ""
        while token or not pages:
            request = pb.ScanRequest(namespace=self.namespace, page_size=page_size, page_token=token)
            page = await self.stub.Scan(request)
            pages.append(list(page.keys))
            token = page.next_page_token
        return pages

    async def set_many(self, keys: Iterable[str], value: bytes, tags: Iterable[str] = (), ttl: float = 60) -> None:
        """
        Store one value under many keys.
        """
        entries = [pb.Entry(key=key, value=value, tags=tags, ttl=seconds(ttl)) for key in keys]
        await self.stub.BatchSet(pb.BatchSetRequest(namespace=self.namespace, entries=entries))

    async def delete(self, *keys: str) -> int:
        """
        Remove keys, and return how many existed.
        """
        answer = await self.stub.Delete(pb.DeleteRequest(namespace=self.namespace, keys=keys))
        return int(answer.deleted_count)

    async def fill_up(self, value: bytes = b"x" * 900, ttl: float | None = None) -> list[str]:
        """
        Store values until the quota is used up: their keys.
        """
        keys: list[str] = []
        while True:
            key = f"filler-{ttl}-{len(keys):04}"
            try:
                await self.set(key, value, ttl=ttl)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return keys
                raise
            keys.append(key)

    async def stats(self) -> pb.StatsResponse:
        """
        The size of the namespace.
        """
        found: pb.StatsResponse = await self.stub.Stats(pb.StatsRequest(namespace=self.namespace))
        return found


def seconds(number: float) -> Duration:
    """
    A duration.
    """
    found = Duration()
    found.FromNanoseconds(int(number * 1e9))
    return found


async def code(call: Any) -> tuple[str, str]:
    """
    The status code and reason of a failing call.
    """
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    trailing: Any = failed.value.trailing_metadata() or ()
    details = dict(trailing).get("grpc-status-details-bin", b"")
    reasons = ("KEY_NOT_FOUND", "CACHE_QUOTA", "LEASE_LOST", "NOT_A_COUNTER", "OVERFLOW", "UNKNOWN_NAMESPACE")
    return failed.value.code().name, next((reason for reason in reasons if reason.encode() in details), "")
