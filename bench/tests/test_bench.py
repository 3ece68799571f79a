"""
`make bench` end to end, with short profiles against one small suite. The rules of plans, verdicts and reports are in
test_run.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import tools
from bench.run import __main__ as program
from bench.run import plan, requests, runner, warmup
from bench.run.suite import Measured, embedded
from bench.run.verdict import CODES, FAIL, NO_VERDICT
from embedded import golang

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
    A small suite for all runs. Searches take 300 ms longer in the cache and in the registry, and creations 200 ms: long
    enough that a busy machine does not change the result of a run.
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
        (self.out / "scenarios").mkdir()
        for path in plan.SCENARIOS.glob("*.toml"):
            # Most calls are searches, so that a few seconds have as many as their 95th percentile needs.
            more = r"share = \g<1>0" if path.stem.startswith("search") else r"share = \1"
            (self.out / "scenarios" / path.name).write_text(re.sub(r"share = (\d+)", more, path.read_text()))
        self._monkeypatch.setattr(plan, "PROFILES", self.out)
        self._monkeypatch.setattr(plan, "SCENARIOS", self.out / "scenarios")
        # The warm-up sends each request once.
        self._monkeypatch.setattr(requests, "_DRAWN", 100)
        self._monkeypatch.setattr(warmup, "_SECONDS", 1.0)
        self._monkeypatch.setattr(warmup, "_ROUNDS", 1)
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
    code, printed, found = bench.short(measured, 8, 40)
    assert "MISSED  search, p95" in printed
    assert found["verdict"] in (FAIL, NO_VERDICT)
    assert code == CODES[found["verdict"]]
    held = {each["name"]: each["held"] for each in found["sla"]}
    assert held["search, p95"] is False
    assert held["errors"] is True
    assert len(found["scenarios"]) == 13
    assert (bench.out / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.timeout(300)
def test_a_killed_service_shows(bench: Bench, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The registry is killed: its calls fail, the run ends on time, and reports the recovery time. The kill comes early,
    because the restart takes long on a busy machine.
    """
    monkeypatch.setattr(runner, "_KILLED_AFTER", 0.2)
    code, _, found = bench.short(measured, 30, 5, SCENARIO="create", KILL="registry")
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


def test_without_ghz_and_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error says what is missing and where to get it.
    """
    monkeypatch.setattr(golang, "TOOLS", tmp_path / "none")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit) as error:
        tools.ghz()
    assert "ghz is not on PATH" in str(error.value)
    assert "Put ghz v0.121.0 on PATH" in str(error.value)
