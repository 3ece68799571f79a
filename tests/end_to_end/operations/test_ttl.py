"""
docs/operations/ttl.md: a longer TTL shows in the hit rate.
"""

from __future__ import annotations

import uuid

import modelyard
from bench.ttl import Load, measure, populate
from embedded.stack import Stack
from modelyard.registry.v1 import namespaces_pb2


def test_a_longer_ttl_raises_the_hit_rate(stack: Stack, yard: modelyard.Client) -> None:
    """
    Of few keys that are read repeatedly only the first reads are misses when nothing expires, and more when entries do.
    """
    request = namespaces_pb2.CreateNamespaceRequest(namespace_id=f"ttl-{uuid.uuid4().hex[:12]}")
    load = Load("searches", keys=5, rate=20, seconds=2, parent=yard.namespaces.CreateNamespace(request).name)
    populate(yard, load)
    short, long = (measure(stack, load, ttl) for ttl in (0.2, 60))
    assert long.miss == load.keys
    assert short.miss > load.keys
    assert short.hits < long.hits
