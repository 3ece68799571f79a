"""
The cache: `python -m services.cache`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from modelyard.cache.v1.cache_pb2_grpc import (
    KeyValueServiceServicer,
    add_CacheAdminServiceServicer_to_server,
    add_KeyValueServiceServicer_to_server,
)
from services.cache.coherence import Coherence
from services.cache.follower import Follower
from services.cache.layers import Near
from services.cache.metrics import CacheMetrics
from services.cache.origin import Origin
from services.cache.policies import policies
from services.cache.proxy import Levels, ReadThrough
from services.cache.service import CacheAdminService
from services.cache.settings import CacheSettings
from services.cache.store import SharedStore
from services.chassis.server import Server, main
from services.chassis.settings import load


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the cache for as long as the block lasts.

    It is ready without Valkey and without its origins: then it passes on what they say, and the gateway goes to the
    origin by itself.
    """
    settings = load(CacheSettings)
    async with AsyncExitStack() as stack:
        near, metrics = Near(settings.near_bytes), CacheMetrics()
        shared = SharedStore(settings.valkey_url, settings.password(), timeout=settings.valkey_timeout)
        stack.push_async_callback(shared.close)
        stack.push_async_callback(metrics.settle)
        levels = Levels(near, shared, settings.ttl(), settings.most_value_bytes, metrics)
        registry, cdn = Origin("registry", settings.registry_targets()), Origin("cdn", settings.cdn_targets())
        for origin in (registry, cdn):
            stack.push_async_callback(origin.close)
        coherence = Coherence(bound=settings.stream_bound)
        follower = Follower(registry, coherence, near.clear)
        await stack.enter_async_context(follower.following())
        # The asset service tells no changes yet: what it answers is passed on and never kept.
        sources = {"registry": (registry, coherence), "cdn": (cdn, Coherence())}
        for policy in policies():
            read = ReadThrough(policy, *sources[policy.origin], levels)
            server.add_methods(policy.service, {policy.method: read.handler()})
        admin = CacheAdminService(near, shared, {"registry": (follower, coherence)})  # type: ignore[abstract] # see below
        server.add(add_CacheAdminServiceServicer_to_server, admin)
        # The methods that they lack answer UNIMPLEMENTED.
        server.add(add_KeyValueServiceServicer_to_server, KeyValueServiceServicer())  # type: ignore[abstract]
        _measure(metrics, near, shared, follower, coherence)
        server.metrics.registry.register(metrics)
        yield


def _measure(metrics: CacheMetrics, near: Near, shared: SharedStore, follower: Follower, coherence: Coherence) -> None:
    metrics.gauges.update(
        {
            "modelyard_cache_near_bytes": ("Bytes in the near level", lambda: near.bytes),
            "modelyard_cache_near_entries": ("Entries in the near level", lambda: len(near)),
            "modelyard_cache_near_evicted": ("Entries that had to go for others", lambda: near.evicted),
            "modelyard_cache_shared_errors": ("Commands that Valkey failed", lambda: shared.errors),
            "modelyard_cache_breaker_open": ("Whether Valkey is left alone", lambda: shared.breaker.state != "closed"),
            "modelyard_cache_stream_age_seconds": ("Since the stream was last heard of", lambda: coherence.age),
            "modelyard_cache_stream_revision": ("The revision applied last", lambda: coherence.applied),
            "modelyard_cache_stream_breaks": ("Streams that have ended", lambda: follower.breaks),
        }
    )


if __name__ == "__main__":
    main("services.cache", compose, settings=CacheSettings)
