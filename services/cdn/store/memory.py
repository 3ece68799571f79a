"""
Memory budgets that uploads share.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

from services.chassis.errors import ModelyardError, ResourceExhausted, Unavailable

#: Requests up to this size are served from the reserve.
SMALL_BYTES = 1 << 20
_RESERVED = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    size: int
    client: str
    turn: asyncio.Future[None]


class Budget:
    """
    A number of bytes that may be held at once; further requests wait in a FIFO queue. A client that holds its whole
    share waits for its own releases only, and other clients overtake it.

    Args:
        total: of the budget in bytes.
        patience: seconds to wait in the queue before giving up.
        share: bytes that one client may hold; None for all.
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
        Acquire *size* bytes, to be released with `give`.

        Args:
            client: to whose share they count.

        Raises:
            Unavailable: other clients held too much for too long (UPLOADS_BUSY).
            ResourceExhausted: the client itself held its whole share for too long (UPLOADS_BUSY).
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
        Release the *size* bytes of one ``take``.
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
                # Blocked by its own share. Its later requests must not overtake this one.
                waiting.add(wanted.client)
            elif wanted.size <= self._free:
                self._line.remove(wanted)
                self._free -= wanted.size
                self._held[wanted.client] += wanted.size
                wanted.turn.set_result(None)
            else:
                return

    def _in_share(self, wanted: _Wanted) -> bool:
        # Without separate shares, every request waits for the total.
        return self._share == self._total or self._held[wanted.client] + wanted.size <= self._share

    def _busy(self, wanted: _Wanted) -> ModelyardError:
        if self._in_share(wanted):
            return Unavailable("UPLOADS_BUSY", "too many concurrent uploads: retry later", retry_after=5.0)
        return ResourceExhausted(
            "UPLOADS_BUSY", "too many concurrent uploads of this client: finish some, then retry", retry_after=5.0
        )


class UploadMemory:
    """
    The memory that all uploads of a process may use. A part is reserved for small requests, so that large ones cannot
    starve them.

    Args:
        total: in bytes.
        share: bytes that one client may hold; None for all.
    """

    def __init__(self, total: int, share: int | None = None) -> None:
        reserve = total // _RESERVED
        self._small = Budget(reserve, share=None if share is None else max(share // _RESERVED, SMALL_BYTES))
        self._large = Budget(total - reserve, share=share)

    def of(self, client: str) -> ClientMemory:
        """
        The memory as one client may use it.
        """
        return ClientMemory(self._small, self._large, client)


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """
    One client's access to the memory. See `Budget`.
    """

    small: Budget
    large: Budget
    client: str

    async def take(self, size: int) -> None:
        """
        Acquire *size* bytes, to be released with `give`.

        Raises:
            Unavailable, ResourceExhausted: see `Budget.take`.
        """
        await self._of(size).take(size, self.client)

    def give(self, size: int) -> None:
        """
        Release the *size* bytes of one ``take``.
        """
        self._of(size).give(size, self.client)

    def _of(self, size: int) -> Budget:
        return self.small if size <= SMALL_BYTES else self.large
