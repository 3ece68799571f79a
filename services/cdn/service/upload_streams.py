"""
Streams of uploads: idle timeout, minimum rate, maximum duration, and the checksum of chunks.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from services.chassis.errors import Aborted, DeadlineExceeded

Message = TypeVar("Message", bound=assets_pb2.UploadRequest | uploads_pb2.WriteUploadRequest)


def check_chunk(chunk: assets_pb2.Chunk, data: bytes) -> None:
    """
    Args:
        data: bytes of the chunk.

    Raises:
        Aborted: the CRC-32 does not match (CHUNK_DAMAGED): the chunk was damaged in transit.
    """
    if chunk.HasField("crc32") and zlib.crc32(data) != chunk.crc32:
        raise Aborted("CHUNK_DAMAGED", f"the chunk at {chunk.offset} was damaged in transit: send it again")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """
    Limits for slow streams.

    Args:
        idle: seconds without a chunk.
        rate: minimum average rate over that time, in bytes per second; 0 for none.
    """

    idle: float
    rate: float = 0


class UploadStream(Generic[Message]):
    """
    Ends streams that stall or trickle, since other uploads wait for the memory that they hold. Only time spent waiting
    for the client counts, not backpressure; and only complete chunks count, since incomplete ones are not visible here.

    A leaky bucket: it holds *idle* seconds, waiting drains it, and each byte refills it by its share at the minimum
    rate. So a stream at or above the minimum rate never ends, and a slower one eventually does.

    Args:
        messages: of the stream.
        patience: limits for slow streams.
        longest: maximum duration in seconds.

    Raises:
        Aborted: no chunk came for too long (UPLOAD_IDLE), or the stream was too slow (UPLOAD_TOO_SLOW).
        DeadlineExceeded: it took longer than *longest* (UPLOAD_TOO_LONG).
    """

    def __init__(self, messages: AsyncIterator[Message], patience: StreamLimits, *, longest: float = math.inf) -> None:
        self._messages = messages
        self._idle, self._rate = patience.idle, patience.rate
        self._left = patience.idle
        self._waits_since: float | None = None
        self._longest, self._ends = longest, time.monotonic() + longest

    def __aiter__(self) -> UploadStream[Message]:
        return self

    @property
    def quiet(self) -> float:
        """
        Seconds for which the stream has been waiting for the client.
        """
        return 0.0 if self._waits_since is None else time.monotonic() - self._waits_since

    async def __anext__(self) -> Message:
        asked = self._waits_since = time.monotonic()
        if asked >= self._ends:
            raise self._too_long()
        try:
            async with asyncio.timeout(min(self._left, self._ends - asked)):
                message = await anext(self._messages)
        except TimeoutError:
            if self._ends - asked < self._left:
                raise self._too_long() from None
            raise self._stalled(time.monotonic() - asked) from None
        finally:
            self._waits_since = None
        # Messages without bytes do not keep a stream alive.
        self._left -= time.monotonic() - asked
        if count := len(message.chunk.data):
            self._left = min(self._left + count / self._rate, self._idle) if self._rate else self._idle
        return message

    def _stalled(self, waited: float) -> Aborted:
        if not self._rate or waited > self._idle / 2:
            return Aborted("UPLOAD_IDLE", f"no chunk came for {self._idle:g} s")
        return Aborted("UPLOAD_TOO_SLOW", f"the stream was slower than {self._rate:g} bytes per second")

    def _too_long(self) -> DeadlineExceeded:
        return DeadlineExceeded("UPLOAD_TOO_LONG", f"it took longer than {self._longest:g} s: use UploadService")
