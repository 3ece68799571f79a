"""
Amounts counted into buckets: plain integers, because the calls of a process share one thread, and a histogram of
prometheus_client costs ten times as much.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

# Seconds. A read from memory takes some 50 µs, a cold search a second, an upload minutes.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
# Seconds that calls took. Finer, because percentiles of them are compared with what clients measure, and guessed at
# within a bucket: from 1 ms to 2.5 s ten bounds a decade (the numbers of ISO 3, R10), so that they are right to some
# 10 %. The bounds of the service level objectives (deploy/monitoring/objectives.py) are among them.
CALL_SECONDS = (
    *(0.0001, 0.00025, 0.0005),
    *(round(step * decade, 6) for decade in (1e-3, 1e-2, 1e-1) for step in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)),
    *(1.0, 1.25, 1.6, 2.0, 2.5, 5.0, 10.0, 60.0),
)
# Bytes, in steps of four: a message is at most some 16 MiB.
BYTES = tuple(float(64 << 2 * step) for step in range(10))


class Histogram:
    """
    How long things took, or how large they were.

    Args:
        bounds: of the buckets, in order.

    Attributes:
        total: all of them together.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.total = 0.0
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, amount: float) -> None:
        """
        Count one of *amount*.
        """
        self.total += amount
        self._counts[bisect_left(self._bounds, amount)] += 1

    @property
    def count(self) -> int:
        """
        How many there were.
        """
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """
        How many were at most so large, for each bound, as Prometheus wants it.
        """
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(list(self._counts))), strict=True))
