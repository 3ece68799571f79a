"""
Connects the live state of this process to its metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from services.cache.metrics import CacheMetrics, StreamStats
from services.cache.model.coherence import Coherence
from services.cache.model.l1 import L1Cache
from services.cache.read_through.follower import Follower
from services.cache.service.values import NamespaceState
from services.cache.store.l2 import L2Cache
from services.cache.store.valkey import Valkey


def register_sources(
    metrics: CacheMetrics,
    near: L1Cache,
    shared: L2Cache,
    streams: Mapping[str, tuple[Follower, Coherence]],
    values: Mapping[str, NamespaceState],
    valkeys: Sequence[Valkey],
) -> None:
    """
    Export the state of the caches, change streams and Valkey connections.

    Args:
        metrics: where to export it.
        near, shared: L1 and L2.
        streams: the change streams, by origin.
        values: the namespaces of the key-value cache.
        valkeys: the connections to Valkey.
    """
    compression = shared.compression
    metrics.evictions = near.evictions
    metrics.namespaces = {name: state.results for name, state in values.items()}
    metrics.feeds = {name: partial(_feed_age, state) for name, state in values.items() if state.namespace.near}
    metrics.gauges.update(
        {
            "modelyard_cache_near_bytes": ("Bytes in L1", lambda: near.size),
            "modelyard_cache_near_entries": ("Entries in L1", lambda: len(near)),
            "modelyard_cache_breaker_open": (
                "Whether the circuit breaker of Valkey, or of one of its servers, is open",
                lambda: not all(each.breakers.closed for each in valkeys),
            ),
            "modelyard_cache_valkey_connections": (
                "Connections to Valkey in use",
                lambda: sum(each.connections for each in valkeys),
            ),
        }
    )
    metrics.counters.update(
        {
            "modelyard_cache_breaker_opened": (
                "Times that a circuit breaker opened",
                lambda: sum(each.breakers.opened for each in valkeys),
            ),
            "modelyard_cache_valkey_unreachable": (
                "Commands that Valkey did not answer in time",
                lambda: sum(each.unreachable for each in valkeys),
            ),
            "modelyard_cache_valkey_refused": (
                "Commands that Valkey answered with an error",
                lambda: sum(each.refused for each in valkeys),
            ),
            "modelyard_cache_compression_in_bytes": ("Bytes before compression", lambda: compression.bytes_in),
            "modelyard_cache_compression_out_bytes": ("Bytes after compression", lambda: compression.bytes_out),
        }
    )
    metrics.streams.update(
        {name: partial(_stream_stats, follower, coherence) for name, (follower, coherence) in streams.items()}
    )


def _feed_age(state: NamespaceState) -> float:
    return state.feed.coherence.age


def _stream_stats(follower: Follower, coherence: Coherence) -> StreamStats:
    return StreamStats(coherence.age, coherence.applied, follower.breaks, follower.changes, follower.lag)
