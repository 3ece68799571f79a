"""
The admin service: status, warm-up and flush of this process of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import duration_pb2

from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from services.cache.model.coherence import Coherence
from services.cache.model.l1 import L1Cache
from services.cache.read_through.follower import Follower
from services.cache.store.breakers import Breakers, worst
from services.cache.store.l2 import L2Cache
from services.cache.warming import Warmer
from services.chassis.errors import Violations
from services.chassis.serving.context import Context

_MOST_RATE = 100_000


class CacheAdminService(cache_pb2_grpc.CacheAdminServiceServicer):
    """
    Serves `modelyard.cache.v1.CacheAdminService`.

    Args:
        near: L1.
        shared: L2.
        streams: the change streams, by origin.
        warmer: runs warm-ups.
        breakers: of the connections to Valkey.
    """

    def __init__(
        self,
        near: L1Cache,
        shared: L2Cache,
        streams: dict[str, tuple[Follower, Coherence]],
        warmer: Warmer,
        breakers: Sequence[Breakers],
    ) -> None:
        self._near = near
        self._shared = shared
        self._streams = streams
        self._warmer = warmer
        self._breakers = breakers

    async def Warm(self, request: cache_pb2.WarmRequest, _context: Context) -> cache_pb2.WarmResponse:
        """
        Load the most-read keys.
        """
        violations = Violations()
        for field, value in (("key_count", request.key_count), ("rate", request.rate)):
            if not 0 <= value <= _MOST_RATE:
                violations.add(field, f"must be from 0 to {_MOST_RATE:,}")
        violations.raise_if_any()
        warmed = await self._warmer.warm(request.key_count, request.rate)
        return cache_pb2.WarmResponse(loaded_count=warmed.loaded, skipped_count=warmed.skipped)

    async def Flush(self, request: cache_pb2.FlushRequest, _context: Context) -> cache_pb2.FlushResponse:
        """
        Clear L1, and L2 on request.
        """
        dropped = await self._shared.flush() if request.shared else 0
        return cache_pb2.FlushResponse(dropped_count=dropped + self._near.clear())

    async def GetStatus(self, _request: cache_pb2.GetStatusRequest, _context: Context) -> cache_pb2.GetStatusResponse:
        """
        The state of L1, the change streams and the circuit breaker.
        """
        return cache_pb2.GetStatusResponse(
            near_entries=len(self._near),
            near_bytes=self._near.size,
            breaker_state=worst(each.state for each in self._breakers),
            streams=[
                cache_pb2.GetStatusResponse.Stream(
                    service=name,
                    connected=follower.connected,
                    applied_revision=coherence.applied,
                    age=_duration(min(coherence.age, 1e9)),
                )
                for name, (follower, coherence) in self._streams.items()
            ],
        )


def _duration(seconds: float) -> duration_pb2.Duration:
    found = duration_pb2.Duration()
    found.FromMilliseconds(round(seconds * 1000))
    return found
