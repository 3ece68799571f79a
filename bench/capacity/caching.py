"""
The hit rate of a cache of a size, with a time to live and writes that end entries, for calls that are Zipf-like.

Che, Tung, Wang, "Hierarchical Web Caching Systems: Modeling, Design and Experimental Results", IEEE JSAC 20(7), 2002:
an LRU cache of C entries behaves as if each entry stayed for one time t after its last read, the same for all, with
sum(1 - exp(-rate x t)) = C. Writes that end an entry are a second Poisson process: a read is a hit when the one before
it is less than t ago and no write came between. The time to live is put on top as if eviction had no memory (ours;
exact where one of the two is absent; `simulation` shows the error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_EXACT = 200
_STEP = 1.1


@dataclass(frozen=True, slots=True)
class Keys:
    """
    Keys that are read alike.

    Args:
        count: how many.
        reads: of each, per second.
        writes: that end the entry of each, per second.
        kept: seconds an entry may live.
        size: of an entry.
    """

    count: float
    reads: float
    writes: float
    kept: float
    size: float = 1.0


@lru_cache(maxsize=64)
def zipf(population: int, skew: float) -> tuple[tuple[float, float], ...]:
    """
    Zipf's shares in bins: the first 200 ranks by themselves, then ever wider.

    Args:
        population: how many keys, at least 1.
        skew: the exponent, 0 or more.

    Returns:
        (how many keys, the share of each), the shares of all keys adding up to 1.
    """
    bins = [(1.0, rank**-skew) for rank in range(1, min(population, _EXACT) + 1)]
    first = _EXACT + 1
    while first <= population:
        last = min(population, int(first * _STEP))
        count = last - first + 1
        # The midpoint rule over [first - 1/2, last + 1/2].
        bins.append((float(count), _integral(first - 0.5, last + 0.5, skew) / count))
        first = last + 1
    whole = sum(count * weight for count, weight in bins)
    return tuple((count, weight / whole) for count, weight in bins)


def _integral(low: float, high: float, skew: float) -> float:
    if math.isclose(skew, 1.0):
        return math.log(high / low)
    return float((high ** (1 - skew) - low ** (1 - skew)) / (1 - skew))


def hit(keys: Keys, stays: float) -> float:
    """
    The share of the reads of *keys* that find an entry.

    Args:
        stays: Che's time, in seconds; infinite when nothing is evicted.
    """
    if keys.reads <= 0 or keys.kept <= 0:
        return 0.0
    both = keys.reads + keys.writes
    again = keys.reads / both * -math.expm1(-both * stays)
    if again <= 0:
        return 0.0
    ends = keys.reads * (1 - again) / again
    hits = keys.reads * (-math.expm1(-ends * keys.kept) / ends if ends * keys.kept > 1e-12 else keys.kept)
    return hits / (1 + hits)


def held(keys: Keys, stays: float) -> float:
    """
    The share of *keys* that have an entry at a moment, valid or not.
    """
    if keys.reads <= 0 or keys.kept <= 0:
        return 0.0
    x = keys.reads * keys.kept
    return min(-math.expm1(-keys.reads * stays), x / (1 + x))


def stays(keys: Sequence[Keys], room: float) -> float:
    """
    Che's time of a cache, in seconds.

    Args:
        room: the sizes of all entries that fit.
    """
    if room <= 0:
        return 0.0
    if entries(keys, math.inf) <= room:
        return math.inf
    low, high = 0.0, 1.0
    while entries(keys, high) < room:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        fits = entries(keys, middle) < room
        low, high = (middle, high) if fits else (low, middle)
    return low


def entries(keys: Sequence[Keys], time: float) -> float:
    """
    The sizes of all entries that are there at a moment; their number, where each has the size 1.
    """
    return sum(each.count * held(each, time) * each.size for each in keys)


def hit_rate(keys: Sequence[Keys], time: float) -> float:
    """
    Of all reads of *keys*.

    Args:
        time: as `stays` gives it.
    """
    reads = sum(each.count * each.reads for each in keys)
    return sum(each.count * each.reads * hit(each, time) for each in keys) / reads if reads else 0.0
