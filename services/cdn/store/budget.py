"""
A bound on memory that many uploads share.
"""

from __future__ import annotations

import asyncio
from collections import deque

from services.chassis.errors import Unavailable


class Budget:
    """
    Bytes that may be held at once; whoever wants more waits in line.

    Args:
        total: how many there are.
        patience: seconds to wait in line before giving up.
    """

    def __init__(self, total: int, *, patience: float = 30.0) -> None:
        self._free = total
        self._total = total
        self._patience = patience
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """
        Take *size* bytes, which must be given back.

        Raises:
            Unavailable: others held too much for too long (UPLOADS_BUSY).
        """
        size = min(size, self._total)
        if not self._line and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give(size)
            elif (size, turn) in self._line:
                self._line.remove((size, turn))
                self._serve()
            if isinstance(error, TimeoutError):
                raise Unavailable("UPLOADS_BUSY", "too many uploads at once: try again", retry_after=5.0) from None
            raise

    def give(self, size: int) -> None:
        """
        Give *size* bytes back, those of one ``take``.
        """
        self._free += min(size, self._total)
        self._serve()

    def _serve(self) -> None:
        while self._line and self._line[0][0] <= self._free:
            size, turn = self._line.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
