"""
A look into this process of the cache. The key-value service has no methods yet: they answer UNIMPLEMENTED.
"""

from __future__ import annotations

from google.protobuf import duration_pb2

from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from services.cache.coherence import Coherence
from services.cache.follower import Follower
from services.cache.layers import Near
from services.cache.store import SharedStore
from services.chassis.context import Context


class CacheAdminService(cache_pb2_grpc.CacheAdminServiceServicer):
    """
    Serves `modelyard.cache.v1.CacheAdminService`.

    Args:
        near: the level in this process.
        shared: the level in Valkey.
        streams: what is followed, by the name of the service behind it.
    """

    def __init__(self, near: Near, shared: SharedStore, streams: dict[str, tuple[Follower, Coherence]]) -> None:
        self._near = near
        self._shared = shared
        self._streams = streams

    async def GetStatus(self, _request: cache_pb2.GetStatusRequest, _context: Context) -> cache_pb2.GetStatusResponse:
        """
        The levels, the change streams and the breaker of this process.
        """
        return cache_pb2.GetStatusResponse(
            near_entries=len(self._near),
            near_bytes=self._near.bytes,
            breaker_state=self._shared.breaker.state,
            streams=[
                cache_pb2.GetStatusResponse.Stream(
                    service=name,
                    connected=follower.connected,
                    applied_revision=coherence.applied,
                    age=duration_pb2.Duration(seconds=int(min(coherence.age, 1e9))),
                )
                for name, (follower, coherence) in self._streams.items()
            ],
        )
