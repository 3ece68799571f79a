"""
What to send and for how long: scenarios and profiles, read from their files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
SCENARIOS, PROFILES = BENCH / "scenarios", BENCH / "profiles"
#: ghz keeps every call in memory until it ends, and says nothing until then.
_LONGEST = 30.0


class PlanError(Exception):
    """
    There is no such plan; the message says what there is.
    """


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One call.

    Args:
        name: of its file.
        ghz: its configuration for ghz, without what the runner adds: data, address, load.
        requests: the function of `requests.Requests` that makes its requests.
        share: of the mix, in percent.
        group: of scenarios that one line of the SLA looks at.
    """

    name: str
    ghz: Mapping[str, Any]
    requests: str
    share: float
    group: str


@dataclass(frozen=True, slots=True)
class Stage:
    """
    A part of a profile.

    Args:
        name: for people.
        seconds: how long.
        first, last: users at its beginning and its end.
        steps: in which they grow, evenly.
        extra: users beside them, who come all at once.
    """

    name: str
    seconds: float
    first: int
    last: int
    steps: int
    extra: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """
    So many users for so long.
    """

    stage: str
    seconds: float
    users: int
    extra: int


@dataclass(frozen=True, slots=True)
class Profile:
    """
    How the load comes.

    Args:
        name: of its file.
        pace: calls a second of one user.
        stages: one after the other.
        models: to have in the registry, unless MODELS says otherwise.
        knee: whether the last step is wanted at which the SLA holds.
        slope: whether the growth of memory is.
        without: lines of the SLA that this profile is too small for.
    """

    name: str
    pace: float
    stages: Sequence[Stage]
    models: int = 10_000
    knee: bool = False
    slope: bool = False
    without: Sequence[str] = ()

    @property
    def users(self) -> int:
        """
        The most at once.
        """
        return max(max(stage.first, stage.last) + stage.extra for stage in self.stages)

    def steps(self, scale: float) -> Iterator[Step]:
        """
        Its steps, each as long as ghz may run at a time, or shorter.

        Args:
            scale: 1 for the whole, 0.1 for a tenth of the time.
        """
        for stage in self.stages:
            for number in range(stage.steps):
                along = number / (stage.steps - 1) if stage.steps > 1 else 1.0
                users = round(stage.first + (stage.last - stage.first) * along)
                left = stage.seconds * scale / stage.steps
                while left > 0.5:
                    part = left if left <= 1.5 * _LONGEST else _LONGEST
                    yield Step(stage.name, part, users, stage.extra)
                    left -= part


def scenarios(wanted: str = "") -> list[Scenario]:
    """
    All of them, or those that are named (one, or several with commas); the shares are of what is there.

    Raises:
        PlanError: there is none of that name.
    """
    known = sorted(path.stem for path in SCENARIOS.glob("*.toml"))
    names = [each for each in wanted.split(",") if each] or known
    if unknown := sorted(set(names) - set(known)):
        raise PlanError(f"SCENARIO={wanted}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    found = [_scenario(name) for name in names]
    whole = sum(each.share for each in found)
    return [Scenario(each.name, each.ghz, each.requests, 100 * each.share / whole, each.group) for each in found]


def profile(name: str) -> Profile:
    """
    Raises:
        PlanError: there is none of that name.
    """
    known = sorted(path.stem for path in PROFILES.glob("*.toml"))
    if name not in known:
        raise PlanError(f"PROFILE={name}: there is no such profile; there are {', '.join(known)}")
    raw = tomllib.loads((PROFILES / f"{name}.toml").read_text())
    stages = [_stage(each) for each in raw.pop("stages")]
    return Profile(name=name, stages=stages, **raw)


def _scenario(name: str) -> Scenario:
    raw = tomllib.loads((SCENARIOS / f"{name}.toml").read_text())
    own = raw.pop("scenario")
    return Scenario(name, raw, **own)


def _stage(raw: Mapping[str, Any]) -> Stage:
    users = raw["users"]
    first, last = (users, users) if isinstance(users, int) else users
    return Stage(raw["name"], raw["seconds"], first, last, raw.get("steps", 1), raw.get("extra", 0))
