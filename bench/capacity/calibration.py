"""
The model applied to the machine on which everything was measured: 2 cores for load generator, services and databases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.capacity import ceiling
from bench.capacity.assumptions import Assumptions, Call
from bench.capacity.caching import Keys, characteristic_time, hit, hit_rate, zipf
from bench.capacity.queueing import p95
from bench.capacity.traffic import Load, hits

CORES = 2
_MS = 1000 * CORES
# bench/run/requests.py: names are those of the first 5,000 models, 50 cards, 200 deployments, 20 assets, 50 pages.
_NAMES = 5000
_ASKED = {"get": _NAMES, "evaluations": _NAMES, "card": 50, "deployment": 200, "asset": 20, "batch_get": 50}
_ZIPF = ("get", "evaluations")
_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Row:
    """
    A figure that was measured, beside what the model says of it.

    Args:
        measured: lowest and highest.
        within: the factor that is claimed; 0 for a figure that the model is known to miss.
        why: what one has to know about it.
    """

    what: str
    predicted: tuple[float, float]
    measured: tuple[float, float]
    within: float
    source: str
    why: str

    @property
    def off(self) -> float:
        """
        The factor between the two, 1 or more; 1 where the ranges meet.
        """
        low, high = max(self.predicted[0], self.measured[0]), min(self.predicted[1], self.measured[1])
        return max(1.0, low / high)


def rows(figures: Assumptions) -> list[Row]:
    """
    All of them.
    """
    most = _most(lambda rate: _mix(figures, rate))
    knee = _knee(figures, most)
    return [
        Row("most calls/s of the stress mix", (most, most), (1200, 1200), 1.4, "bench/RESULTS.md, stress", ""),
        Row(
            "knee: target.services x the most, calls/s",
            (figures["target.services"] * most, figures["target.services"] * most),
            (301, 399),
            1.4,
            "bench/RESULTS.md, stress",
            "by construction: the target was chosen for it",
        ),
        Row(
            "knee by queueing alone, calls/s",
            (knee, knee),
            (301, 399),
            0,
            "bench/RESULTS.md, stress",
            "see below",
        ),
        _peers(figures),
        _creations(figures),
        _created(figures),
        _written(),
        _lru(),
        _cold("hit rate of load, %", 24_593, 89.3, figures),
        _cold("hit rate of stress, %", 147_506, 94.2, figures),
    ]


def _near(figures: Assumptions) -> float:
    return sum(figures[name] for name in ("client.call", "gateway.call", "host.call", "cache.near"))


def _missing(figures: Assumptions, call: Call) -> float:
    return _near(figures) + figures["cache.shared"] + figures["cache.miss"] + call.registry + call.postgres


def _creating(figures: Assumptions) -> float:
    return sum(figures[name] for name in ("client.call", "gateway.call", "write.registry", "write.postgres"))


def _mix(figures: Assumptions, rate: float) -> float:
    """
    Time of a core, in ms, of a call of the bench's mix at *rate* calls a second.
    """
    changed = figures.but({"write.creations": 1.0})
    load = Load(_NAMES, 0.9 * rate, 0.1 * rate, 1.0)
    found = hits(changed, load, 1)
    work = load.writes * _creating(figures)
    for call in figures.calls:
        asked, missed = load.rate(figures, call), found.missed[call.name]
        if call.kept or call.name == "calls.get_uncached":
            work += (asked - missed) * _near(figures) + missed * _missing(figures, call)
        else:
            work += asked * (figures["client.call"] + figures["gateway.call"] + call.registry + call.postgres)
    return work / rate


def _most(cost: Callable[[float], float]) -> float:
    """
    Calls a second at which both cores are full.
    """
    low, high = 1.0, 1e5
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * cost(middle) < _MS else (low, middle)
    return low


def _knee(figures: Assumptions, most: float) -> float:
    """
    Calls a second at which the 95th percentile of a call, wait included, passes the 100 ms that health may take.
    """
    low, high = 1.0, most * 0.9999
    for _ in range(25):
        rate = (low + high) / 2
        service = _mix(figures, rate)
        slow = p95(
            CORES, rate * service / _MS, service, figures["traffic.bursts"], figures["traffic.service_variation"]
        )
        low, high = (rate, high) if slow < 100 else (low, rate)
    return low


def _peers(figures: Assumptions) -> Row:
    """
    Get 55, searches 25, versions 10, creations 10: searches always miss, because creations come in between.
    """
    by_name = {call.name.removeprefix("calls."): call for call in figures.calls}
    cost = 0.55 * _near(figures) + 0.25 * _missing(figures, by_name["search"]) + 0.1 * _near(figures)
    found = _MS / (cost + 0.1 * _creating(figures))
    why = "searches of one word or label are cheaper than the assumed ones"
    return Row("calls/s of the peers' mix", (found, found), (1916, 1916), 2.6, "bench/RESULTS.md, peers", why)


def _creations(figures: Assumptions) -> Row:
    """
    32 clients straight to the registry: two groups of 16.
    """
    found = ceiling.writes(16, figures["write.held"], figures["write.flush_here"], 0.0)
    source = "make bench-registry, issue 3"
    return Row("creations/s, the revision's ceiling", (found, found), (742, 800), 1.2, source, "the flush is fitted")


def _created(figures: Assumptions) -> Row:
    found = _MS / _creating(figures)
    return Row("creations/s through the gateway", (found, found), (650, 691), 1.4, "bench/RESULTS.md, peers", "")


def _written() -> Row:
    """
    Reads and writes, Zipf(1.0), 100,000 models, everything warm, no eviction.
    """
    keys = [Keys(count, 0.95 * share, 0.05 * share, 1e12) for count, share in zipf(100_000, 1.0)]
    found = 100 * hit_rate(keys, math.inf)
    return Row("hit rate with 5 % writes, %", (found, found), (94.7, 94.7), 1.02, "docs/adr/0012", "")


def _lru() -> Row:
    """
    Every sixth read is of a key that is never read again.
    """
    keys = [Keys(count, share * 5 / 6, 0.0, 1e15) for count, share in zipf(100_000, 1.0)]
    once = Keys(1e9, 1 / 6 / 1e9, 0.0, 1e15)
    found = 100 * hit_rate([*keys, once], characteristic_time([*keys, once], 20_000))
    why = "moka, which we use, has 65.3: LRU is on the safe side"
    return Row("hit rate of an LRU of 20,000, %", (found, found), (62.9, 62.9), 1.05, "docs/adr/0012", why)


def _cold(what: str, calls: float, measured: float, figures: Assumptions) -> Row:
    """
    Three minutes: between everything asked for the first time and everything warm.
    """
    shares = {call.name.removeprefix("calls."): call for call in figures.calls}
    asked = missed_cold = missed_warm = 0.0
    for name, population in _ASKED.items():
        call = shares[name]
        drawn = calls * call.share / 100
        bins: Sequence[tuple[float, float]] = zipf(population, 1.0 if name in _ZIPF else 0.0)
        first = sum(count * -math.expm1(-drawn * share) for count, share in bins)
        expired = 0.0
        if call.kept < _SECONDS:
            expired = sum(
                count * drawn * share * (1 - hit(Keys(1, drawn * share / _SECONDS, 0, call.kept), math.inf))
                for count, share in bins
            )
        asked += drawn
        missed_cold += max(first, expired)
        missed_warm += expired
    span = (100 * (1 - missed_cold / asked), 100 * (1 - missed_warm / asked))
    return Row(what, span, (measured, measured), 1.01, "bench/RESULTS.md", "from all cold to all warm")
