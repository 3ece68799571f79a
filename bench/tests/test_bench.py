"""
`make bench` end to end, with a short profile against one small suite.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import tools
from bench.run import __main__ as program
from bench.run import plan, requests
from bench.run.suite import Measured, embedded
from bench.run.verdict import CODES, FAIL, NO_VERDICT

ROOT = Path(__file__).resolve().parents[2]

# A few calls per second: what is tested is whether the run sees what happens, not how much the machine can do.
PROFILE = """
pace = 2.0
without = ["models", "users at once"]

[[stages]]
name = "steady"
seconds = {seconds}
users = {users}
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """
    A small suite for all runs, in which searches take 300 ms longer in the cache and in the registry, and creations
    200 ms: long enough that a busy machine does not change what a run concludes.
    """
    try:
        tools.ghz()
    except SystemExit as error:
        pytest.skip(f"there is no ghz, and it cannot be built here: {error}")
    with embedded(60, print, {"MODELYARD_FAULT_DELAY": "SearchModels=0.3,CreateModel=0.2"}) as suite:
        yield suite


class Bench:
    """
    Runs the program in this process.

    Args:
        out: the folder of the reports.
        monkeypatch: sets the environment.
        capsys: captures what it prints.
    """

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.out, self._monkeypatch, self._capsys = out, monkeypatch, capsys

    def run(self, **settings: str) -> tuple[int, str, str]:
        """
        Run with these settings; return exit code, stdout and stderr.
        """
        # Objectives are held or missed whether or not other processes use the machine.
        for name, value in {"OUT": str(self.out), "BUSY": "1", **settings}.items():
            self._monkeypatch.setenv(name, value)
        self._capsys.readouterr()
        code = program.main()
        return code, *self._capsys.readouterr()

    def short(self, measured: Measured, seconds: float, users: int, **settings: str) -> tuple[int, str, dict[str, Any]]:
        """
        Run a profile of that length against *measured*; return exit code, stdout and the report.
        """

        @contextmanager
        def shared(models: int, say: object, settings: object) -> Iterator[Measured]:
            yield measured

        (self.out / "short.toml").write_text(PROFILE.format(seconds=seconds, users=users))
        self._monkeypatch.setattr(plan, "PROFILES", self.out)
        # The warm-up sends each request once.
        self._monkeypatch.setattr(requests, "_DRAWN", 100)
        self._monkeypatch.setattr(program, "embedded", shared)
        code, printed, _ = self.run(PROFILE="short", **settings)
        return code, printed, json.loads((self.out / "report.json").read_text())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """
    The program, with its reports in a folder of the test.
    """
    return Bench(tmp_path, monkeypatch, capsys)


@pytest.mark.timeout(600)  # building ghz is part of it
def test_a_slow_search_misses_its_objective(bench: Bench, measured: Measured) -> None:
    """
    The whole mix runs to its report without an error; a suite whose searches are slow misses that objective, and the
    run says so.
    """
    code, printed, found = bench.short(measured, 20, 30)
    assert "MISSED  search, p95" in printed
    assert found["verdict"] in (FAIL, NO_VERDICT)
    assert code == CODES[found["verdict"]]
    held = {each["name"]: each["held"] for each in found["sla"]}
    assert held["search, p95"] is False
    assert held["errors"] is True
    assert len(found["scenarios"]) == 13
    assert (bench.out / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.timeout(300)
def test_a_killed_service_shows(bench: Bench, measured: Measured) -> None:
    """
    The registry is killed half-way: its calls fail, the run ends on time, and reports the recovery time. Half of the
    time is left for the restart: on a busy machine that takes longest.
    """
    code, _, found = bench.short(measured, 44, 5, SCENARIO="create", KILL="registry")
    assert found["scenarios"]["create"]["codes"].get("Unavailable", 0) > 0
    assert found["verdict"] in (FAIL, NO_VERDICT)
    assert code == CODES[found["verdict"]]
    killed, recovered = found["events"]
    assert "registry was killed after" in killed
    assert "the death of the service: it was as before" in recovered


def test_invalid_settings_are_rejected(bench: Bench) -> None:
    """
    Before anything is started.
    """
    code, _, said = bench.run(PROFILE="nonsense")
    assert (code, "there are load, smoke, soak, spike, stress" in said) == (2, True)
    code, _, said = bench.run(PROFILE="smoke", MODE="ajar")
    assert (code, "MODE is closed or open" in said) == (2, True)
    assert not (bench.out / "report.json").exists()


def test_without_ghz_and_without_a_network(tmp_path: Path) -> None:
    """
    It says what is missing and where to get it, and ends with an error.
    """
    code = "import pathlib, bench.tools as t, embedded.golang as g; g.TOOLS = pathlib.Path('none'); t.ghz()"
    environment = {"PATH": "", "HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ghz is not on PATH" in done.stderr
    assert "Put ghz v0.121.0 on PATH" in done.stderr
