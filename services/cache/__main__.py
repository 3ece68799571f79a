"""
The cache: `python -m services.cache`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from modelyard.cache.v1.cache_pb2_grpc import (
    add_CacheAdminServiceServicer_to_server,
    add_KeyValueServiceServicer_to_server,
)
from modelyard.contracts import permissions, scopes
from services.authorization.follower import PolicyFollower
from services.cache.instrumentation import register_sources
from services.cache.metrics import CacheMetrics
from services.cache.model.coherence import Coherence
from services.cache.model.hot_keys import HotKeys
from services.cache.model.l1 import L1Cache
from services.cache.read_through.follower import Follower
from services.cache.read_through.handler import ReadThrough
from services.cache.read_through.loader import CacheLevels
from services.cache.read_through.origin import Origin
from services.cache.read_through.policies import Policy, policies
from services.cache.read_through.visibility import AssetVisibility, Visibility
from services.cache.service.admin import CacheAdminService
from services.cache.service.values import KeyValueService, namespace_states
from services.cache.settings import CacheSettings
from services.cache.store.compression import Compression
from services.cache.store.hot_keys import HotStore
from services.cache.store.l2 import L2Cache
from services.cache.store.valkey import Valkey
from services.cache.store.values import ValueStore
from services.cache.warming import Warmer
from services.chassis.access.policies import Policies
from services.chassis.serving.server import Server, main
from services.chassis.settings import load


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the cache for as long as the block lasts.

    It is ready without Valkey and without its origins: it then returns the origins' errors, and the gateway falls back
    to the origin.
    """
    settings = load(CacheSettings)
    known = Policies(bound=settings.stream_bound)
    server.ask_for(scopes(), policies=known)
    async with AsyncExitStack() as stack:
        near, metrics = L1Cache(settings.near_bytes), CacheMetrics()
        # Separate pools and circuit breakers: a burst of one kind of call cannot starve the others.
        valkey = connect(settings, patience=2 * settings.valkey_timeout)
        calls = connect(settings)
        waits = connect(settings, connections=max(1, sum(each.near for each in settings.namespaces)))
        valkeys = (valkey, calls, waits)
        for each in valkeys:
            stack.push_async_callback(each.close)
        shared = L2Cache(valkey, Compression(settings.compression, settings.most_entry_bytes()), settings.prefix)
        stack.push_async_callback(metrics.settle)
        levels = CacheLevels(
            near,
            shared,
            settings.ttl(),
            absent_ttl=settings.ttl_absent,
            grace=settings.grace,
            most_value_bytes=settings.most_value_bytes,
            lease_wait=settings.lease_wait,
            metrics=metrics,
        )
        token = settings.service_token()
        registry = Origin("registry", settings.registry_targets(), token, server.identity)
        cdn = Origin("cdn", settings.cdn_targets(), token, server.identity)
        sources: dict[str, tuple[Origin, Coherence]] = {}
        streams: dict[str, tuple[Follower, Coherence]] = {}
        for origin in (registry, cdn):
            stack.push_async_callback(origin.close)
            # Each origin has its own revisions.
            coherence = Coherence(bound=settings.stream_bound)
            follower = Follower(origin, coherence, near.clear)
            await stack.enter_async_context(follower.following())
            sources[origin.name], streams[origin.name] = (origin, coherence), (follower, coherence)

        if server.asks:
            await stack.enter_async_context(PolicyFollower(registry.channel, token, known).following())
        needed, hot = permissions(), HotKeys(settings.warm_keys)

        def visibility(policy: Policy) -> Visibility | AssetVisibility | None:
            if not server.asks:
                return None
            if policy.origin == registry.name:
                return Visibility(policy, needed[policy.path], known)
            return AssetVisibility(known)

        reads: Mapping[str, ReadThrough] = {
            policy.path: ReadThrough(policy, *sources[policy.origin], levels, hot, visibility(policy))
            for policy in policies()
        }
        for read in reads.values():
            server.add_methods(read.policy.service, {read.policy.method: read.handler()})
        process = f"{socket.gethostname()}:{settings.listen}"
        warmer = Warmer(
            reads,
            streams["registry"][1],
            hot,
            HotStore(valkey, settings.prefix, process),
            most_keys=settings.warm_keys,
            rate=settings.warm_rate,
        )
        admin = CacheAdminService(near, shared, streams, warmer, [each.breakers for each in valkeys])
        server.add(add_CacheAdminServiceServicer_to_server, admin)

        values = ValueStore(calls, waits, settings.prefix)
        found = namespace_states(settings.namespaces, values, settings.stream_bound)
        for state in found.values():
            stack.push_async_callback(state.feed.close)
            if state.namespace.near:
                state.feed.start()
        server.add(add_KeyValueServiceServicer_to_server, KeyValueService(found, values, near, server.draining))

        register_sources(metrics, near, shared, streams, found, valkeys)
        server.metrics.registry.register(metrics)
        await stack.enter_async_context(warmer.working(settings.warm_patience))
        yield


def connect(settings: CacheSettings, **options: Any) -> Valkey:
    """
    A connection to Valkey.

    Args:
        options: as `Valkey` takes them.
    """
    return Valkey(
        settings.valkey_url,
        settings.password(),
        cluster=settings.valkey_cluster,
        timeout=settings.valkey_timeout,
        **options,
    )


if __name__ == "__main__":
    main("services.cache", compose, settings=CacheSettings)
