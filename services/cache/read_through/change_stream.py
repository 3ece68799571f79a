"""
One stream of an origin's changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from google.protobuf import duration_pb2

from modelyard.changes.v1 import changes_pb2
from services.cache.read_through.origin import Origin

# Heartbeats that may fail to come before a stream is silent, and before it is given up.
_MISSED, _MOST_MISSED = 4, 20


class ChangeStream:
    """
    One stream of changes.

    Args:
        origin: whose; its WatchChanges is that of modelyard.{name}.v1.ChangeService.
        start: the first revision wanted; 0 for what comes from now on.
        heartbeat: seconds between signs of life.

    Attributes:
        asked: when it was asked for, by this process' clock.
        late: seconds from then to its first word; infinite before that.
        reading: the task that reads it, and returns what ended it.
    """

    __slots__ = ("_heard", "_heartbeat", "_origin", "_start", "asked", "late", "reading")

    def __init__(self, origin: Origin, start: int, heartbeat: float) -> None:
        self._origin, self._start, self._heartbeat = origin, start, heartbeat
        self.asked = self._heard = time.monotonic()
        self.late = float("inf")
        self.reading: asyncio.Task[Exception | None]

    @property
    def silent(self) -> bool:
        """
        Whether several heartbeats have failed to come.
        """
        return time.monotonic() - self._heard > _MISSED * self._heartbeat

    async def events(self) -> AsyncGenerator[changes_pb2.WatchChangesResponse, None]:
        """
        What it says, until it ends because the origin is going away.

        Raises:
            grpc.aio.AioRpcError: it broke.
            TimeoutError: it was silent for so long that nothing is expected of it any more.
        """
        watch: Any = self._origin.channel().unary_stream(
            f"/modelyard.{self._origin.name}.v1.ChangeService/WatchChanges",
            request_serializer=changes_pb2.WatchChangesRequest.SerializeToString,
            response_deserializer=changes_pb2.WatchChangesResponse.FromString,
        )
        interval = duration_pb2.Duration(nanos=int(self._heartbeat * 1e9))
        request = changes_pb2.WatchChangesRequest(start_revision=self._start, heartbeat_interval=interval)
        call = watch(request, metadata=self._origin.token.metadata())
        patience = _MOST_MISSED * self._heartbeat
        try:
            while True:
                try:
                    async with asyncio.timeout(patience):
                        event = await call.read()
                except TimeoutError:
                    raise TimeoutError(f"nothing heard for {patience:g} s") from None
                if not isinstance(event, changes_pb2.WatchChangesResponse):
                    return
                self._heard = time.monotonic()
                self.late = min(self.late, self._heard - self.asked)
                yield event
        finally:
            call.cancel()
