"""
A timeout that does not count the delays of a busy event loop.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_TICKS = 10


class PeerTimeout:
    """
    Like `asyncio.timeout`, but one iteration of the event loop counts at most a tenth of the time, however long it
    takes: an answer that has arrived and was not read yet is not the peer's fault.

    Args:
        seconds: timeout of the block, for a responsive event loop.

    Raises:
        TimeoutError: the block took longer.
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
            # Relative to now, not to when it was due, so that one iteration of the loop sees at most one tick.
            self._ticking = self._loop.call_later(self._tick, self._ticked)
        else:
            self._timeout.reschedule(self._loop.time())
