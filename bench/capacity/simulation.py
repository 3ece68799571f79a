"""
A small simulation of one cache, to measure the error of `caching`: LRU eviction, a TTL, writes; seeded.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from bench.capacity.caching import Keys, characteristic_time, hit_rate, zipf


@dataclass(frozen=True, slots=True)
class Trial:
    """
    One setting.

    Args:
        population: keys.
        skew: of reads and of writes.
        room: entries.
        kept: seconds, with 1,000 reads a second.
        writes: for each read.
    """

    population: int
    skew: float
    room: int
    kept: float
    writes: float


READS = 1000.0
TRIALS = (
    Trial(10_000, 1.0, 1_000, 1e9, 0.0),
    Trial(10_000, 0.9, 2_000, 1e9, 0.05),
    Trial(10_000, 0.9, 10_000, 20.0, 0.01),
    Trial(10_000, 0.9, 2_000, 20.0, 0.05),
    Trial(10_000, 0.7, 1_000, 5.0, 0.1),
)
#: The most by which the approximation may be off, in the share of reads.
ERROR = 0.01


@lru_cache
def simulated(trial: Trial, events: int = 150_000, seed: int = 7) -> float:
    """
    The hit rate of the second half of *events* reads and writes.
    """
    dice = random.Random(seed)
    shares = list(accumulate(share for count, share in _each(trial)))
    loaded: OrderedDict[int, float] = OrderedDict()
    now, hits, reads = 0.0, 0, 0
    for number in range(events):
        now += dice.expovariate(READS * (1 + trial.writes))
        key = min(bisect(shares, dice.random() * shares[-1]), trial.population - 1)
        if dice.random() * (1 + trial.writes) < trial.writes:
            if key in loaded:
                # As ours: the entry stays where it is and is no longer valid.
                loaded[key] = float("-inf")
            continue
        found = now - loaded.get(key, float("-inf")) <= trial.kept
        if not found:
            loaded[key] = now
        loaded.move_to_end(key)
        if len(loaded) > trial.room:
            loaded.popitem(last=False)
        if number >= events // 2:
            reads += 1
            hits += found
    return hits / reads


def approximated(trial: Trial) -> float:
    """
    The same by `caching`.
    """
    keys = [
        Keys(count, READS * share, READS * trial.writes * share, trial.kept)
        for count, share in zipf(trial.population, trial.skew)
    ]
    return hit_rate(keys, characteristic_time(keys, trial.room))


def _each(trial: Trial) -> list[tuple[float, float]]:
    return [(1.0, rank**-trial.skew) for rank in range(1, trial.population + 1)]
