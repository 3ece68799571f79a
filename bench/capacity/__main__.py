"""
From measured numbers to pods and machines: docs/capacity.md.

    python -m bench.capacity                                  the nine cases
    python -m bench.capacity --models 2e6 --calls 5000        one case, line by line
    python -m bench.capacity --check                          the model beside measurements and a simulation
    python -m bench.capacity --page                           write all of these into docs/capacity.md
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.capacity import report
from bench.capacity.assumptions import DEFAULT, Assumptions, AssumptionsError, load
from bench.capacity.sizing import plan
from bench.capacity.traffic import Case, CaseError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "capacity.md"
EXAMPLE = {"models": 2e6, "calls": 5000.0}
_CASE = ("models", "calls", "writes", "skew", "gib")


def main(given: Sequence[str] | None = None) -> int:
    """
    Returns:
        The exit code: 0, or 2 for what cannot be.
    """
    options = _options().parse_args(given)
    case = {name: getattr(options, name) for name in _CASE if getattr(options, name) is not None}
    try:
        figures = load(options.assumptions)
        if options.page and options.assumptions != DEFAULT:
            raise CaseError("--page writes what the tree's own assumptions give: leave --assumptions out")
        if options.page:
            PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks(figures)), encoding="utf-8")
        elif options.check:
            print(f"{report.calibrated(figures)}\n\n{report.checked()}")
        else:
            print(one(figures, case) if case else report.nine(figures))
    except (AssumptionsError, CaseError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def one(figures: Assumptions, given: Mapping[str, float]) -> str:
    """
    One case, line by line.

    Args:
        given: what was said of it; the rest is assumed.

    Raises:
        CaseError: models or calls are missing, or it cannot be.
    """
    for name in ("models", "calls"):
        if name not in given:
            raise CaseError(f"--{name} is missing: a case has --models and --calls, such as --models 2e6 --calls 5000")
    case = Case(**{"writes": figures["traffic.writes"], "skew": figures["traffic.skew"], **given})
    return report.lines(figures, plan(figures, case))


def blocks(figures: Assumptions) -> dict[str, str]:
    """
    What the page has of this program, by the name of its place.
    """
    return {
        "nine": report.nine(figures),
        "one": one(figures, EXAMPLE),
        "matters": report.matters(figures),
        "calibration": report.calibrated(figures),
        "simulation": report.checked(),
    }


def filled(page: str, found: Mapping[str, str]) -> str:
    """
    *page* with new blocks: what stands between `<!-- name -->` and `<!-- /name -->`.
    """
    for name, text in found.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = place.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description="Pods and machines for a case.")
    parser.add_argument("--models", type=float, help="how many models there are")
    parser.add_argument("--calls", type=float, help="calls a second, reads and writes")
    parser.add_argument("--writes", type=float, help="the share of calls that write, 0 to 1")
    parser.add_argument("--skew", type=float, help="Zipf's exponent of the calls over the models")
    parser.add_argument("--gib", type=float, help="GiB a second through the asset service over gRPC (0)")
    parser.add_argument(
        "--assumptions", type=Path, default=DEFAULT, help="a changed copy of bench/capacity/assumptions.toml"
    )
    parser.add_argument("--check", action="store_true", help="the model beside measurements and a simulation")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/capacity.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
