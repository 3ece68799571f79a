"""
The most-read keys, estimated from a sample of the reads.
"""

from __future__ import annotations

from collections import Counter

# One read in so many is counted, to keep the cost per read negligible.
_EVERY = 16
_MOST_KEY_BYTES = 4096


class HotKeys:
    """
    Counts a sample of the reads by key. The least-read keys are dropped when there are too many, as in lossy counting
    (Manku, Motwani, "Approximate Frequency Counts over Data Streams", VLDB 2002).

    Args:
        most: how many keys `top` returns.
    """

    __slots__ = ("_counts", "_left", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[bytes] = Counter()
        self._left = 1

    def read(self, key: bytes) -> None:
        """
        Record a read of *key*.
        """
        self._left -= 1
        if not self._left:
            self._left = _EVERY
            self._count(key)

    def top(self) -> list[tuple[bytes, int]]:
        """
        The most-read keys in descending order, with their reads in the sample.
        """
        return self._counts.most_common(self._most)

    def age(self) -> None:
        """
        Halve all counts, so that recent reads weigh more.
        """
        self._counts = Counter({key: count // 2 for key, count in self._counts.items() if count > 1})

    def _count(self, key: bytes) -> None:
        if len(key) > _MOST_KEY_BYTES or not self._most:
            return
        self._counts[key] += 1
        if len(self._counts) > 8 * self._most:
            self._counts = Counter(dict(self._counts.most_common(4 * self._most)))
