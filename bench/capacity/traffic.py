"""
What a case asks of one suite, and how much of it the cache answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity.assumptions import Assumptions, Call
from bench.capacity.caching import Keys, characteristic_time, hit_rate, occupancy_limit, zipf
from bench.capacity.ceiling import shared_cells

#: services/cache/store/compression.py
_COMPRESSED_ABOVE = 1024


class CaseError(Exception):
    """
    A case that cannot be; the message names the option and what it may be.
    """


@dataclass(frozen=True, slots=True)
class Case:
    """
    What is asked for.

    Args:
        models: there are.
        calls: a second, reads and writes.
        writes: the share of calls that write.
        skew: of the calls over the models.
        gib: bytes through the asset service over gRPC, GiB a second; HTTP downloads through CloudFront are none.
    """

    models: float
    calls: float
    writes: float
    skew: float
    gib: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"models": (1, 1e10), "calls": (0.001, 1e8), "writes": (0, 1), "skew": (0, 3), "gib": (0, 1000)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise CaseError(f"--{name} is {value:g}; give a number between {least:g} and {most:g}")


@dataclass(frozen=True, slots=True)
class Load:
    """
    What one suite is asked.

    Args:
        models, reads, writes: of the suite; the latter two a second.
        skew: as in `Case`.
    """

    models: float
    reads: float
    writes: float
    skew: float

    def rate(self, figures: Assumptions, call: Call) -> float:
        """
        How often *call* is made, a second.
        """
        return self.reads * call.share / sum(each.share for each in figures.calls)

    @property
    def calls(self) -> float:
        """
        A second.
        """
        return self.reads + self.writes


@dataclass(frozen=True, slots=True)
class Hits:
    """
    What the cache answers.

    Args:
        near: the share of cached reads answered from a process's memory.
        whole: that, and from Valkey.
        quiet: the same excluding searches and leaderboards, as the benchmark counts it.
        missed: by call, how often it reaches the service behind, a second.
        reads: cached reads, a second.
        entries: in Valkey.
        octets: that they take there.
    """

    near: float
    whole: float
    quiet: float
    missed: dict[str, float]
    reads: float
    entries: float
    octets: float


def keys_of(figures: Assumptions, load: Load, call: Call, pods: int = 1, overhead: float = 0.0) -> list[Keys]:
    """
    The keys of a call as one of *pods* processes sees them.

    Writes that change a model follow the same Zipf distribution as reads, which is hard on the cache: what is read most
    is written most. A namespace's writes end all of its searches.
    """
    rate = load.rate(figures, call) / pods
    changes = load.writes * (1 - figures["write.creations"]) if call.ended_by == "own" else 0.0
    each = 0.0
    if call.ended_by == "namespace":
        each = load.writes / max(1.0, load.models / figures["traffic.models_of_namespace"])
    each += shared_cells(figures, load.writes)
    population = max(1, round(call.keys * load.models))
    return [
        Keys(count, rate * share, changes * share + each, call.kept, call.answer + overhead)
        for count, share in zipf(population, round(load.skew, 3))
    ]


def hits(figures: Assumptions, load: Load, pods: int) -> Hits:
    """
    What the cache answers when *pods* processes share the calls and Valkey has room for everything that lives.
    """
    cached = [call for call in figures.calls if call.kept > 0]
    overhead = figures["near.overhead"]
    of_all = {call.name: keys_of(figures, load, call) for call in cached}
    of_one = [key for call in cached for key in keys_of(figures, load, call, pods, overhead)]
    room = figures["near.memory"] * 2**20
    missed = {call.name: load.rate(figures, call) for call in figures.calls}
    for name, keys in of_all.items():
        missed[name] *= 1 - hit_rate(keys, math.inf)
    reads = sum(load.rate(figures, call) for call in cached)
    through = sum(missed[call.name] for call in cached)
    whole = 1 - through / reads if reads else 0.0
    kept = {call: sum(key.count * occupancy_limit(key) for key in of_all[call.name]) for call in cached}
    octets = sum(number * _octets(figures, call) for call, number in kept.items())
    near = min(whole, hit_rate(of_one, characteristic_time(of_one, room)))
    quiet = [key for call in cached if call.ended_by != "namespace" for key in of_all[call.name]]
    return Hits(near, whole, hit_rate(quiet, math.inf), missed, reads, sum(kept.values()), octets)


def _octets(figures: Assumptions, call: Call) -> float:
    """
    Bytes of an entry in Valkey.
    """
    packed = figures["valkey.compressed"] if call.answer > _COMPRESSED_ABOVE else 1.0
    return call.answer * packed + figures["valkey.overhead"]
