"""
The hit rate of an LRU cache of a given size with a TTL and invalidating writes, under Zipf-distributed requests.

Che, Tung, Wang, "Hierarchical Web Caching Systems: Modeling, Design and Experimental Results", IEEE JSAC 20(7), 2002:
an LRU cache of C entries behaves as if each entry were evicted a characteristic time t after its last read, with
sum(1 - exp(-rate x t)) = C. Writes that invalidate an entry are a second Poisson process: a read is a hit when the
previous read was less than t ago and no write came in between. The TTL is added as if eviction were memoryless (our
extension; exact where either the TTL or eviction is absent; `simulation` shows the error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_EXACT = 200
_STEP = 1.1
#: Relative, of the characteristic time: far below what a hit rate is printed with.
_PRECISION = 1e-9


@dataclass(frozen=True, slots=True)
class Keys:
    """
    Keys with the same request rate.

    Args:
        count: the number of keys.
        reads: reads of each key per second.
        writes: writes per second that invalidate the entry of each key.
        kept: the TTL in seconds.
        size: the size of an entry.
    """

    count: float
    reads: float
    writes: float
    kept: float
    size: float = 1.0


@lru_cache(maxsize=64)
def zipf(population: int, skew: float) -> tuple[tuple[float, float], ...]:
    """
    The Zipf distribution in bins: one for each of the first 200 ranks, then bins of growing width.

    Args:
        population: the number of keys, at least 1.
        skew: the exponent, 0 or more.

    Returns:
        Pairs of the number of keys in a bin and the share of each; the shares of all keys add up to 1.
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


def hit(keys: Keys, time: float) -> float:
    """
    The hit rate of *keys*.

    Args:
        time: Che's characteristic time, in seconds; infinite when nothing is evicted.
    """
    if keys.reads <= 0 or keys.kept <= 0:
        return 0.0
    both = keys.reads + keys.writes
    again = keys.reads / both * -math.expm1(-both * time)
    if again <= 0:
        return 0.0
    ends = keys.reads * (1 - again) / again
    hits = keys.reads * (-math.expm1(-ends * keys.kept) / ends if ends * keys.kept > 1e-12 else keys.kept)
    return hits / (1 + hits)


def occupancy_limit(keys: Keys) -> float:
    """
    The largest share of *keys* that can have an entry at a moment: what the TTL leaves when nothing is evicted.
    """
    if keys.reads <= 0 or keys.kept <= 0:
        return 0.0
    x = keys.reads * keys.kept
    return x / (1 + x)


def characteristic_time(keys: Sequence[Keys], capacity: float) -> float:
    """
    Che's characteristic time of a cache, in seconds.

    Args:
        capacity: the total size of the entries that fit.
    """
    if capacity <= 0:
        return 0.0
    if occupancy(keys, math.inf) <= capacity:
        return math.inf
    # What does not depend on the time is computed once: this loop is nearly all that a capacity plan costs.
    terms = [(each.count * each.size, each.reads, limit) for each in keys if (limit := occupancy_limit(each)) > 0]
    expm1, time = math.expm1, 0.0
    # Newton's method: occupancy is concave in the time, so that the steps from below never pass the root.
    while True:
        occupied = slope = 0.0
        for weight, reads, limit in terms:
            share = -expm1(-reads * time)
            if share < limit:
                occupied += weight * share
                slope += weight * reads * (1 - share)
            else:
                occupied += weight * limit
        step = (capacity - occupied) / slope if slope > 0 else 0.0
        if step <= _PRECISION * time:
            return time
        time += step


def occupancy(keys: Sequence[Keys], time: float) -> float:
    """
    The total size of the entries, valid or not, that are cached at a moment; their number, where each has the size 1.

    Args:
        time: Che's characteristic time, in seconds; infinite when nothing is evicted.
    """
    occupied = 0.0
    for each in keys:
        if (limit := occupancy_limit(each)) > 0:
            occupied += each.count * each.size * min(-math.expm1(-each.reads * time), limit)
    return occupied


def hit_rate(keys: Sequence[Keys], time: float) -> float:
    """
    The hit rate over all reads of *keys*.

    Args:
        time: as `characteristic_time` returns it.
    """
    reads = sum(each.count * each.reads for each in keys)
    return sum(each.count * each.reads * hit(each, time) for each in keys) / reads if reads else 0.0
