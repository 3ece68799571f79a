"""
A time-out for the other side, not for ourselves.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_TICKS = 10


class PeerTimeout:
    """
    As `asyncio.timeout`, but however long one turn of the event loop takes, it counts a tenth at the most: an answer
    that has come and that we have not read yet is no silence of the other side.

    Args:
        seconds: that the block may take, of a loop that keeps up.

    Raises:
        TimeoutError: it took longer.
    """

    __slots__ = ("_left", "_loop", "_tick", "_ticking", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._tick = seconds / _TICKS
        self._left = _TICKS

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self._ticking = self._loop.call_later(self._tick, self._ticked)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticking.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _ticked(self) -> None:
        self._left -= 1
        if self._left:
            # From now on, and not from when it should have been: no two ticks come in one turn of the loop.
            self._ticking = self._loop.call_later(self._tick, self._ticked)
        else:
            self._timeout.reschedule(self._loop.time())
