"""
What was promised, and whether it holds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ghz import percentile
from bench.run.windows import FAULTS, SHARES, CallStats, enough, merged

#: Of each kind of bound: its unit, and whether more is better.
KINDS = {
    "p95_ms": ("ms", False),
    "cache_p95_ms": ("ms", False),
    "hit_percent": ("%", True),
    "calls_per_minute": ("calls/min", True),
    "error_percent": ("%", False),
    "available_percent": ("%", True),
    "models": ("models", True),
    "users": ("users", True),
}
#: Those that can be asked of a part of a run.
OF_A_PART = {"p95_ms", "error_percent"}
NOT_ASKED, NOT_CALLED, NOT_SEEN = "not asked of this profile", "no such call in this run", "not seen from outside"
PASS, FAIL, NO_VERDICT = "PASS", "FAIL", "NO VERDICT"
#: The exit code of each.
CODES = {PASS: 0, FAIL: 1, NO_VERDICT: 3}


@dataclass(frozen=True, slots=True)
class Line:
    """
    One promise.

    Args:
        name: of it.
        kind: what is measured, one of KINDS.
        bound: in the kind's unit.
        group: of scenarios; all of them when empty.
    """

    name: str
    kind: str
    bound: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """
    A line with what was measured.

    Args:
        line: the promise.
        measured: None when nobody could measure it.
        why: what to say in place of a verdict; empty when there is one.
    """

    line: Line
    measured: float | None
    why: str = ""

    @property
    def held(self) -> bool | None:
        """
        None when there is no verdict.
        """
        if self.measured is None or self.why:
            return None
        more = KINDS[self.line.kind][1]
        return self.measured >= self.line.bound if more else self.measured <= self.line.bound

    def __str__(self) -> str:
        unit, more = KINDS[self.line.kind]
        word = {True: "ok    ", False: "MISSED", None: "—     "}[self.held]
        measured = "not measured" if self.measured is None else f"{shown(self.measured)} {unit}"
        sign = "≥" if more else "≤"
        said = f"{word}  {self.line.name}: {measured} (asked: {sign} {self.line.bound:,g} {unit})"
        return f"{said}; {self.why}" if self.why else said


def shown(value: float) -> str:
    """
    A figure for people: whole above a thousand, else with four digits.
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def lines(path: Path) -> list[Line]:
    """
    The lines of a file.

    Raises:
        ValueError: one of them has no bound, or one that is not known.
    """
    found = []
    for raw in tomllib.loads(path.read_text())["lines"]:
        kinds = set(raw) & set(KINDS)
        if len(kinds) != 1:
            raise ValueError(
                f"{path.name}, {raw.get('name', 'a line without a name')}: give it one of {', '.join(KINDS)}"
            )
        (kind,) = kinds
        found.append(Line(raw["name"], kind, float(raw[kind]), raw.get("group", "")))
    return found


def judge(
    promised: Sequence[Line],
    taken: Mapping[str, CallStats],
    groups: Mapping[str, str],
    figures: Mapping[str, float | None],
    without: Sequence[str] = (),
    unseen: Collection[str] = (),
) -> list[Judged]:
    """
    Hold the calls of a run against what was promised.

    Args:
        taken: by scenario.
        groups: of the scenarios.
        figures: what is not read off the calls, by kind.
        without: names of lines that are not asked for.
        unseen: kinds that nobody can measure, as at a deployed gateway whose metrics are not read.
    """
    found = []
    for line in promised:
        of_it = {name: each for name, each in taken.items() if not line.group or groups[name] == line.group}
        whole = merged(of_it.values())
        measured = _measured(line, whole, figures)
        found.append(Judged(line, measured, _note(line, whole, set(groups.values()), without, unseen)))
    return found


def overall(judged: Sequence[Judged], quiet: bool) -> str:
    """
    PASS, FAIL, or NO VERDICT: the machine was not the bench's own, or an objective that was asked for was not measured.

    Args:
        judged: the objectives.
        quiet: whether nobody else took the processor.
    """
    if not quiet:
        return NO_VERDICT
    if any(each.held is False for each in judged):
        return FAIL
    asked = [each for each in judged if each.why not in (NOT_ASKED, NOT_CALLED, NOT_SEEN)]
    return PASS if asked and all(each.held for each in asked) else NO_VERDICT


def _note(line: Line, whole: CallStats, groups: set[str], without: Sequence[str], unseen: Collection[str]) -> str:
    if line.name in without:
        return NOT_ASKED
    if line.kind in unseen:
        return NOT_SEEN
    if line.group and line.group not in groups:
        return NOT_CALLED
    least, well = enough(SHARES["p95"]), whole.calls - whole.errors
    return f"too few calls: {well} of {least}" if line.kind == "p95_ms" and 0 < well < least else ""


def _measured(line: Line, whole: CallStats, figures: Mapping[str, float | None]) -> float | None:
    if line.kind == "p95_ms":
        ordered = sorted(whole.ms)
        return percentile(ordered, SHARES["p95"]) if ordered else None
    if line.kind == "error_percent":
        return 100 * whole.errors / whole.calls if whole.calls else None
    if line.kind == "available_percent":
        faults = sum(count for code, count in whole.codes.items() if code in FAULTS)
        return 100 * (1 - faults / whole.calls) if whole.calls else None
    return figures.get(line.kind)


def as_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """
    For the report.
    """
    return [
        {
            "name": each.line.name,
            "measured": each.measured,
            "required": each.line.bound,
            "unit": KINDS[each.line.kind][0],
            "better": "higher" if KINDS[each.line.kind][1] else "lower",
            "held": each.held,
            "note": each.why,
        }
        for each in judged
    ]
