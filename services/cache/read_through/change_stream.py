"""
One WatchChanges call to an origin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from google.protobuf import duration_pb2

from modelyard.changes.v1 import changes_pb2
from services.cache.read_through.origin import Origin

# Missed heartbeats after which a stream counts as silent, and after which it is closed.
_MISSED, _MOST_MISSED = 4, 20


class ChangeStream:
    """
    One stream of changes.

    Args:
        origin: its WatchChanges is that of modelyard.{name}.v1.ChangeService.
        start: the first revision; 0 for the changes from now on.
        heartbeat: seconds between heartbeats.

    Attributes:
        asked: when the call was made, as `time.monotonic`.
        late: seconds from then to the first message; infinite before that.
        reading: the task that reads the stream, and returns the error that ended it.
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
        Whether several heartbeats in a row are missing.
        """
        return time.monotonic() - self._heard > _MISSED * self._heartbeat

    async def events(self) -> AsyncGenerator[changes_pb2.WatchChangesResponse, None]:
        """
        Yield the messages until the origin ends the stream because it shuts down.

        Raises:
            grpc.aio.AioRpcError: the stream broke.
            TimeoutError: too many heartbeats in a row are missing.
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
                    raise TimeoutError(f"no message for {patience:g} s") from None
                if not isinstance(event, changes_pb2.WatchChangesResponse):
                    return
                self._heard = time.monotonic()
                self.late = min(self.late, self._heard - self.asked)
                yield event
        finally:
            call.cancel()
