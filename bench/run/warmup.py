"""
The warm-up: load everything that will be requested again into the cache, before anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.run.generators import Call, GeneratorRun
from bench.run.plan import Scenario

_SECONDS = 4.0
_RATE = 400  # calls a second of each scenario: what a small machine answers uncached
_USERS = 8
# After so many rounds the measurement starts in any case; the report says that the warm-up was incomplete.
_ROUNDS = 30
# In seconds. A run whose calls are slow starts after that; its report says that the warm-up was incomplete.
_LONGEST = 150.0

Generate = Callable[[Sequence[GeneratorRun]], Sequence[Sequence[Call]]]
Data = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Warmed:
    """
    What the warm-up did for one scenario.

    Args:
        answered: requests that were answered.
        wanted: requests.
    """

    answered: int
    wanted: int


def warm(data: Mapping[str, Data], scenarios: Sequence[Scenario], generate: Generate) -> dict[str, Warmed]:
    """
    Send each request once, in as many rounds as that takes: a round lasts for as long as it should take, and a machine
    that is slower than that sends the rest in the next one.

    Args:
        data: the requests by scenario.
        scenarios: those that leave something in the cache, and read it there.
        generate: sends the calls of a round, each scenario's in turn, and returns those that were made.
    """
    left = {each.name: list(data[each.name]) for each in scenarios}
    answered = dict.fromkeys(left, 0)
    ends = time.monotonic() + _LONGEST
    for _ in range(_ROUNDS):
        if time.monotonic() >= ends:
            break
        going = [each for each in scenarios if left[each.name]]
        if not going:
            break
        seconds = max([_SECONDS, *(len(left[each.name]) / _RATE for each in going)])
        rates = {each.name: max(1, round(1.1 * len(left[each.name]) / seconds)) for each in going}
        shots = [GeneratorRun(each, left[each.name], _USERS, rates[each.name], seconds) for each in going]
        for each, calls in zip(going, generate(shots), strict=True):
            # It begins anew when it is through.
            made = calls[: len(left[each.name])]
            answered[each.name] += sum(call.status == "OK" for call in made)
            del left[each.name][: len(made)]
    return {name: Warmed(answered[name], len(data[name])) for name in left}


def is_read_there(scenario: Scenario) -> bool:
    """
    Whether the answers of a scenario come from the cache: it writes nothing, and does not ask past it.
    """
    metadata = scenario.ghz.get("metadata", {})
    return scenario.requests != "create" and "no-cache" not in metadata.get("cache-control", "")
