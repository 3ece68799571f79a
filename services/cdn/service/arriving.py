"""
The messages of an upload's stream, as long as the client goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from services.chassis.errors import Aborted

Message = TypeVar("Message", assets_pb2.UploadRequest, uploads_pb2.WriteUploadRequest)


class Arriving(Generic[Message]):
    """
    Ends a stream that stalls: what it holds in memory, others wait for. Only the time counts in which we wait for the
    client, not that in which it waits for us.

    Args:
        messages: of the stream.
        idle: seconds that it may bring no byte.

    Raises:
        Aborted: it brought none for longer (UPLOAD_IDLE).
    """

    def __init__(self, messages: AsyncIterator[Message], *, idle: float) -> None:
        self._messages = messages
        self._idle = self._left = idle

    def __aiter__(self) -> Arriving[Message]:
        return self

    async def __anext__(self) -> Message:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                message = await anext(self._messages)
        except TimeoutError:
            raise Aborted("UPLOAD_IDLE", f"no byte came for {self._idle:g} s") from None
        # Messages without bytes keep no stream.
        self._left = self._idle if message.chunk.data else self._left - (time.monotonic() - asked)
        return message
