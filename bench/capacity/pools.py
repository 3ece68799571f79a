"""
Pods, or servers, of one kind, and how long a call is in one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity.assumptions import Assumptions
from bench.capacity.queueing import p95
from bench.capacity.traffic import Hits


@dataclass(frozen=True, slots=True)
class Pool:
    """
    Pods, or servers, of one kind in all suites.

    Args:
        cores: that the work takes.
        servers: how many there are.
        each: cores of one.
        utilisation: of each, 0 to 1.
        p95: ms of one call in it, wait included; work is spread at random, so that each has a queue of its own.
    """

    name: str
    cores: float
    servers: int
    each: int
    utilisation: float
    p95: float


def described(
    figures: Assumptions, name: str, work: float, servers: int, each: int, busy: float, service: float
) -> Pool:
    """
    A pool.

    Args:
        work: cores, in all suites.
        busy: of each, 0 to 1 and more.
        service: ms of a core that one call takes here.
    """
    slow = math.inf
    if busy < 1:
        slow = p95(each, busy, service, figures["traffic.bursts"], figures["traffic.service_variation"])
    return Pool(name, work, servers, each, busy, slow)


def missed(figures: Assumptions, found: Hits, at: str) -> float:
    """
    Reads that get to service *at*, a second.
    """
    return sum(found.missed[call.name] for call in figures.calls if call.at == at)


def mean(figures: Assumptions, found: Hits, at: str) -> float:
    """
    What each of them costs it, in ms of a core.
    """
    calls = [call for call in figures.calls if call.at == at]
    whole = sum(found.missed[call.name] for call in calls)
    return sum(found.missed[call.name] * call.registry for call in calls) / whole if whole else 0.0
