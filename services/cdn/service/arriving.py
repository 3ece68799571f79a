"""
The messages of an upload's stream, as long as the client goes on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from services.chassis.errors import Aborted, DeadlineExceeded

Message = TypeVar("Message", bound=assets_pb2.UploadRequest | uploads_pb2.WriteUploadRequest)


class Arriving(Generic[Message]):
    """
    Ends a stream that stalls: what it holds in memory, others wait for. Only the time counts in which we wait for the
    client, not that in which it waits for us; and only whole chunks do, since of others nobody here hears.

    Args:
        messages: of the stream.
        idle: seconds that it may bring no chunk.
        longest: seconds that it may take in all.

    Raises:
        Aborted: it brought no chunk for longer (UPLOAD_IDLE).
        DeadlineExceeded: it took longer (UPLOAD_TOO_LONG).
    """

    def __init__(self, messages: AsyncIterator[Message], *, idle: float, longest: float = math.inf) -> None:
        self._messages = messages
        self._idle = self._left = idle
        self._longest, self._ends = longest, time.monotonic() + longest

    def __aiter__(self) -> Arriving[Message]:
        return self

    async def __anext__(self) -> Message:
        asked = time.monotonic()
        if asked >= self._ends:
            raise self._too_long()
        try:
            async with asyncio.timeout(min(self._left, self._ends - asked)):
                message = await anext(self._messages)
        except TimeoutError:
            if self._ends - asked < self._left:
                raise self._too_long() from None
            raise Aborted("UPLOAD_IDLE", f"no chunk came for {self._idle:g} s") from None
        # Messages without bytes keep no stream.
        self._left = self._idle if message.chunk.data else self._left - (time.monotonic() - asked)
        return message

    def _too_long(self) -> DeadlineExceeded:
        return DeadlineExceeded("UPLOAD_TOO_LONG", f"a stream may take {self._longest:g} s: use UploadService")
