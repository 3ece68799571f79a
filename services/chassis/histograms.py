"""
Durations counted into buckets: plain integers, because the calls of a process share one thread, and a histogram of
prometheus_client costs ten times as much.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

# Seconds. A read from memory takes some 50 µs, a cold search a second, an upload minutes. The bounds of
# the service level objectives (deploy/monitoring/objectives.py) are among them.
_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Histogram:
    """
    How long things took.

    Attributes:
        seconds: all of them together.
    """

    __slots__ = ("_counts", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._counts = [0] * (len(_BOUNDS) + 1)

    def observe(self, seconds: float) -> None:
        """
        Count one that took *seconds*.
        """
        self.seconds += seconds
        self._counts[bisect_left(_BOUNDS, seconds)] += 1

    @property
    def count(self) -> int:
        """
        How many there were.
        """
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """
        How many took at most so many seconds, for each bound, as Prometheus wants it.
        """
        bounds = [*map(str, _BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(list(self._counts))), strict=True))
