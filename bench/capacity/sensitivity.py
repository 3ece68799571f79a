"""
What changes the plan most: one assumption at a time, at a million models and 100,000 calls a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.capacity.assumptions import Assumptions
from bench.capacity.sizing import Plan, plan
from bench.capacity.traffic import Case

MODELS, CALLS = 1e6, 1e5
_OTHERS: tuple[tuple[str, float], ...] = (
    ("traffic.writes", 0.001),
    ("traffic.writes", 0.1),
    ("traffic.skew", 0.7),
    ("traffic.models_of_namespace", 1e6),
    ("network.round_trip", 0.1),
    ("network.round_trip", 1.0),
    ("write.flush", 10.0),
    ("target.services", 0.6),
    ("postgres.growth", 1.0),
    ("cache.miss", 0.7),
)


def changed(figures: Assumptions) -> Iterator[tuple[str, Plan]]:
    """
    Plans with one assumption changed, the first with none.
    """
    yield "as assumed", _plan(figures)
    for name, value in _OTHERS:
        yield f"{name} = {value:g} (not {figures[name]:g})", _plan(figures.but({name: value}))
    cheaper = tuple(
        replace(call, postgres=call.postgres / 3) if call.ended_by == "namespace" else call for call in figures.calls
    )
    yield "searches and leaderboards cost a third", _plan(replace(figures, calls=cheaper))


def _plan(figures: Assumptions) -> Plan:
    return plan(figures, Case(MODELS, CALLS, figures["traffic.writes"], figures["traffic.skew"]))
