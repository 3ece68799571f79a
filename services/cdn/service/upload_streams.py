"""
The messages of an upload's stream, as long as the client goes on.
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
        data: of the chunk.

    Raises:
        Aborted: it has another CRC-32 than the chunk says (CHUNK_DAMAGED): it was damaged on the way.
    """
    if chunk.HasField("crc32") and zlib.crc32(data) != chunk.crc32:
        raise Aborted("CHUNK_DAMAGED", f"the chunk at {chunk.offset} was damaged on the way: send it again")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """
    How slow the stream of an upload may be.

    Args:
        idle: seconds that it may bring no chunk.
        rate: bytes per second that it has to bring on average over that time; 0 for any.
    """

    idle: float
    rate: float = 0


class UploadStream(Generic[Message]):
    """
    Ends a stream that stalls or drips: what it holds in memory, others wait for. Only the time counts in which we wait
    for the client, not that in which it waits for us; and only whole chunks do, since of others nobody here hears.

    There is time for a wait as long as *idle*. Waiting takes of it, and each byte gives back what it takes at the least
    rate (a leaky bucket): a stream that is as fast goes on for ever, and one that is slower ends some time.

    Args:
        messages: of the stream.
        patience: how slow it may be.
        longest: seconds that it may take in all.

    Raises:
        Aborted: it brought no chunk for too long (UPLOAD_IDLE), or too few bytes (UPLOAD_TOO_SLOW).
        DeadlineExceeded: it took longer (UPLOAD_TOO_LONG).
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
        Seconds that we have been waiting for the client by now.
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
        # Messages without bytes keep no stream.
        self._left -= time.monotonic() - asked
        if count := len(message.chunk.data):
            self._left = min(self._left + count / self._rate, self._idle) if self._rate else self._idle
        return message

    def _stalled(self, waited: float) -> Aborted:
        if not self._rate or waited > self._idle / 2:
            return Aborted("UPLOAD_IDLE", f"no chunk came for {self._idle:g} s")
        return Aborted("UPLOAD_TOO_SLOW", f"fewer than {self._rate:g} bytes came each second, or none for too long")

    def _too_long(self) -> DeadlineExceeded:
        return DeadlineExceeded("UPLOAD_TOO_LONG", f"a stream may take {self._longest:g} s: use UploadService")
