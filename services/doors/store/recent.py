"""
What was read lately, so that the many requests of one download read a version once.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

# A caller's rights and the version's existence are checked again after so many seconds, which is the bound of the
# cache's answers as well.
_SECONDS: Final = 2.0
_MOST: Final = 10_000
# Bytes that an artifact of a manifest takes in memory, roughly.
_ARTIFACT_BYTES: Final = 400


class Recent:
    """
    Versions by caller: each token has its own, since it may read what another may not.

    Args:
        most_bytes: memory for all of them; those read longest ago make room.
        clock: in seconds.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most_bytes // _ARTIFACT_BYTES
        self._clock = clock
        self._kept: OrderedDict[tuple[bytes, tuple[str, ...]], tuple[float, Any, int]] = OrderedDict()
        self._size = 0

    async def get(
        self, token: str, key: tuple[str, ...], read: Callable[[], Awaitable[T]], artifacts: Callable[[T], int]
    ) -> T:
        """
        What the caller read lately under a key, or reads now. What it raises is not kept.

        Args:
            token: the caller's; empty for none.
            key: of one kind of value.
            read: reads the value.
            artifacts: how many a value has.
        """
        kept = (hashlib.sha256(token.encode()).digest(), key)
        now = self._clock()
        if (found := self._kept.get(kept)) is not None and now - found[0] < _SECONDS:
            value: T = found[1]
            return value
        value = await read()
        self._keep(kept, now, value, artifacts(value) + 1)
        return value

    def _keep(self, key: tuple[bytes, tuple[str, ...]], at: float, value: Any, size: int) -> None:
        if (before := self._kept.pop(key, None)) is not None:
            self._size -= before[2]
        if size > self._most:
            # It would push out everything else, and itself.
            return
        self._kept[key] = (at, value, size)
        self._size += size
        while self._size > self._most or len(self._kept) > _MOST:
            _, (_, _, size) = self._kept.popitem(last=False)
            self._size -= size
