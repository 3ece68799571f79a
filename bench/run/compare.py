"""
`make bench-compare A=folder B=folder`: whether two runs differ, and how sure that is.

The ratio of the medians over the seconds of the runs, with an interval by the bootstrap: the seconds of both are drawn
again and again in blocks of five, because a second is like its neighbours (H. Künsch, "The Jackknife and the Bootstrap
for General Stationary Observations", 1989).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.foreign import Foreign

_DRAWS = 2000
_BLOCK = 5
_LEAST = 20
_SURE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """
    How B compares with A.

    Args:
        figure: what is compared.
        ratio: of the medians, B over A.
        low, high: the interval that holds it with 95 % confidence.
    """

    figure: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low > 1 or self.high < 1:
            said = f"{'more' if self.low > 1 else 'less'} in B, with 95 % confidence"
        else:
            said = "no difference is shown"
        return f"{self.figure:<12} B/A = {self.ratio:.3f}  [{self.low:.3f}, {self.high:.3f}]  {said}"


def difference(figure: str, a: Sequence[float], b: Sequence[float], seed: int = 1) -> Difference | None:
    """
    Compare two series; None when one has less than twenty seconds.
    """
    if min(len(a), len(b)) < _LEAST or not statistics.median(a):
        return None
    dice = random.Random(seed)
    ratios = sorted(
        statistics.median(_drawn(b, dice)) / max(statistics.median(_drawn(a, dice)), 1e-9) for _ in range(_DRAWS)
    )
    edge = int(len(ratios) * (1 - _SURE) / 2)
    return Difference(figure, statistics.median(b) / statistics.median(a), ratios[edge], ratios[-edge - 1])


def _drawn(series: Sequence[float], dice: random.Random) -> list[float]:
    found: list[float] = []
    while len(found) < len(series):
        start = dice.randrange(max(1, len(series) - _BLOCK + 1))
        found += series[start : start + _BLOCK]
    return found[: len(series)]


def compare(a: Path, b: Path) -> list[str]:
    """
    What there is to say about two runs.

    Raises:
        SystemExit: a folder holds no report, or the two are not of the same kind.
    """
    one, other = _report(a), _report(b)
    said = [f"A: {one['title']}, {a}", f"B: {other['title']}, {b}"]
    said += [
        f"Careful: {key} is {one[key]} in A and {other[key]} in B"
        for key in ("profile", "scenario", "mode", "scale", "machine")
        if one[key] != other[key]
    ]
    said += [f"Careful: others took the processor in {name}" for name, run in (("A", one), ("B", other)) if _busy(run)]
    for figure in ("p50", "p95", "p99", "calls"):
        first, second = (
            [each[figure] for each in run["windows"] if each["calls"] and each[figure] is not None]
            for run in (one, other)
        )
        found = difference(figure, first, second)
        said.append(f"{figure:<12} too short, or too few calls a second, to say" if found is None else str(found))
    return said


def _busy(run: dict[str, Any]) -> bool:
    return "foreign" in run and not Foreign(**run["foreign"]).quiet


def _report(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except OSError as error:
        raise SystemExit(f"{folder} holds no report of `make bench`: {error.strerror}") from None
    return found


def main() -> int:
    """
    Compare A with B, both folders of bench/out.
    """
    a, b = os.environ.get("A"), os.environ.get("B")
    if not a or not b:
        raise SystemExit("say what to compare: make bench-compare A=bench/out/… B=bench/out/…")
    print("\n".join(compare(Path(a), Path(b))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
