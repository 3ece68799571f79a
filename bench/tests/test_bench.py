"""
`make bench` as people run it, short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import tools
from bench.run.verdict import CODES, FAIL, NO_VERDICT

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ghz() -> None:
    """
    ghz, built once where it is not on PATH.
    """
    try:
        tools.ghz()
    except SystemExit as error:
        pytest.skip(f"there is no ghz, and it cannot be built here: {error}")


def bench(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    # Whether others use the machine is no matter of these tests: objectives are held or missed all the same.
    environment = {**os.environ, "OUT": str(out), "MODELS": "500", "BUSY": "1", **settings}
    command = [sys.executable, "-m", "bench.run"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.timeout(900)  # building ghz is part of it
@pytest.mark.usefixtures("ghz")
def test_smoke_and_a_slowed_search(tmp_path: Path) -> None:
    """
    The mix runs to its report without an error; a build whose search sleeps for 300 ms in the cache and in the
    registry misses that line, and says so.
    """
    done = bench(tmp_path, PROFILE="smoke", MODELYARD_FAULT_DELAY="SearchModels=0.3")
    assert "MISSED  search, p95" in done.stdout, done.stdout + done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["verdict"] in (FAIL, NO_VERDICT)
    assert done.returncode == CODES[found["verdict"]]
    held = {each["name"]: each["held"] for each in found["sla"]}
    assert held["search, p95"] is False
    assert held["errors"] is True
    assert len(found["scenarios"]) == 13
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ghz")
def test_a_killed_service_shows(tmp_path: Path) -> None:
    """
    The registry is killed in the middle: its calls fail, the run ends in its time, and says how long it took until it
    was as before.
    """
    done = bench(tmp_path, PROFILE="smoke", SCENARIO="create", SCALE="0.8", KILL="registry")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["scenarios"]["create"]["codes"].get("Unavailable", 0) > 0
    assert found["verdict"] in (FAIL, NO_VERDICT)
    assert done.returncode == CODES[found["verdict"]]
    killed, recovered = found["events"]
    assert "registry was killed after" in killed
    assert "the death of the service: it was as before" in recovered


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path) -> None:
    """
    Before anything is started.
    """
    done = bench(tmp_path, PROFILE="nonsense")
    assert (done.returncode, "there are load, smoke, soak, spike, stress" in done.stderr) == (2, True)
    done = bench(tmp_path, MODE="ajar")
    assert (done.returncode, "MODE is closed or open" in done.stderr) == (2, True)
    assert not (tmp_path / "report.json").exists()


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
