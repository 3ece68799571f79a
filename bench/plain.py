"""
A service that answers GetModel with the bytes of a file, or with what a bare redis-py GET brings: what a host costs
when a cache does nothing else.

`python -m bench.plain`, with the settings that every service has and

* MODELYARD_PLAIN_ANSWER: the file that holds the answer;
* MODELYARD_PLAIN_VALKEY: where to GET it for every call, as redis://host:port/database; unset for the constant.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import redis.asyncio

from services.chassis.serving.context import Context
from services.chassis.serving.server import Server, main

_KEY = b"plain:answer"
# As many and as long as those of a cache's hit.
_TRAILING = (("x-cache", "near"), ("x-revision", "100000"), ("age", "10"))


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the answer for as long as the block lasts.
    """
    answer = Path(os.environ["MODELYARD_PLAIN_ANSWER"]).read_bytes()  # noqa: ASYNC240 - before anything is served
    url = os.environ.get("MODELYARD_PLAIN_VALKEY")
    client = redis.asyncio.Redis.from_url(url, protocol=3) if url else None
    if client is not None:
        await client.set(_KEY, answer)

    async def constant(_request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(_TRAILING)
        return answer

    async def fetched(_request: bytes, context: Context) -> bytes:
        found: Any = await client.get(_KEY)  # type: ignore[union-attr]
        context.set_trailing_metadata(_TRAILING)
        return found  # type: ignore[no-any-return]

    handler = grpc.unary_unary_rpc_method_handler(fetched if client else constant)
    server.add_methods("modelyard.registry.v1.ModelService", {"GetModel": handler})
    # A gateway asks after this one before it sends calls.
    server.add_methods("modelyard.cache.v1.CacheAdminService", {"GetStatus": handler})
    yield
    if client is not None:
        await client.aclose()


if __name__ == "__main__":
    main("bench.plain", compose)
