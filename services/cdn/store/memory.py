"""
A bound on memory that many uploads share.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

from services.chassis.errors import ModelyardError, ResourceExhausted, Unavailable

#: What is this small or smaller is taken from the reserve.
SMALL_BYTES = 1 << 20
_RESERVED = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    size: int
    client: str
    turn: asyncio.Future[None]


class Budget:
    """
    Bytes that may be held at once; whoever wants more waits in line. Who holds its whole share waits for itself and for
    nobody else: others pass it.

    Args:
        total: how many there are.
        patience: seconds to wait in line before giving up.
        share: how many of them one client may hold; None for all.
    """

    def __init__(self, total: int, *, patience: float = 30.0, share: int | None = None) -> None:
        self._free = total
        self._total = total
        self._patience = patience
        self._share = total if share is None else min(share, total)
        self._held: Counter[str] = Counter()
        self._line: deque[_Wanted] = deque()

    async def take(self, size: int, client: str = "") -> None:
        """
        Take *size* bytes, which must be given back.

        Args:
            client: whose share they are of.

        Raises:
            Unavailable: others held too much for too long (UPLOADS_BUSY).
            ResourceExhausted: the client itself did (UPLOADS_BUSY).
        """
        wanted = _Wanted(self._within(size), client, asyncio.get_running_loop().create_future())
        self._line.append(wanted)
        self._serve()
        try:
            async with asyncio.timeout(self._patience):
                await wanted.turn
        except BaseException as error:
            if wanted.turn.done() and not wanted.turn.cancelled():
                self.give(size, client)
            elif wanted in self._line:
                self._line.remove(wanted)
                self._serve()
            if isinstance(error, TimeoutError):
                raise self._busy(wanted) from None
            raise

    def give(self, size: int, client: str = "") -> None:
        """
        Give *size* bytes back, those of one ``take``.
        """
        size = self._within(size)
        self._free += size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]
        self._serve()

    def _within(self, size: int) -> int:
        return min(size, self._share)

    def _serve(self) -> None:
        waiting: set[str] = set()
        for wanted in tuple(self._line):
            if wanted.turn.done():
                self._line.remove(wanted)
            elif wanted.client in waiting or not self._in_share(wanted):
                # It waits for itself. What it wants later must not overtake what it wants now.
                waiting.add(wanted.client)
            elif wanted.size <= self._free:
                self._line.remove(wanted)
                self._free -= wanted.size
                self._held[wanted.client] += wanted.size
                wanted.turn.set_result(None)
            else:
                return

    def _in_share(self, wanted: _Wanted) -> bool:
        # Whose share is everything waits for whoever holds it.
        return self._share == self._total or self._held[wanted.client] + wanted.size <= self._share

    def _busy(self, wanted: _Wanted) -> ModelyardError:
        if self._in_share(wanted):
            return Unavailable("UPLOADS_BUSY", "too many uploads at once: try again", retry_after=5.0)
        return ResourceExhausted(
            "UPLOADS_BUSY", "you send too many uploads at once: finish some, then try again", retry_after=5.0
        )


class UploadMemory:
    """
    What all uploads of a process may hold in memory: a part of it is for small demands alone, so that large ones cannot
    keep them out.

    Args:
        total: bytes.
        share: how many of them one client may hold; None for all.
    """

    def __init__(self, total: int, share: int | None = None) -> None:
        reserve = total // _RESERVED
        self._small = Budget(reserve, share=None if share is None else max(share // _RESERVED, SMALL_BYTES))
        self._large = Budget(total - reserve, share=share)

    def of(self, client: str) -> ClientMemory:
        """
        What one client takes of it.
        """
        return ClientMemory(self._small, self._large, client)


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """
    A client's way to the memory. See `Budget`.
    """

    small: Budget
    large: Budget
    client: str

    async def take(self, size: int) -> None:
        """
        Take *size* bytes, which must be given back.

        Raises:
            Unavailable, ResourceExhausted: see `Budget.take`.
        """
        await self._of(size).take(size, self.client)

    def give(self, size: int) -> None:
        """
        Give *size* bytes back, those of one ``take``.
        """
        self._of(size).give(size, self.client)

    def _of(self, size: int) -> Budget:
        return self.small if size <= SMALL_BYTES else self.large
