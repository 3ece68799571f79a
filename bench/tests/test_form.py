from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from bench import form
from bench.foreign import Foreign, Watch
from bench.ghz import percentile


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(form, "OUT", tmp_path)
    return tmp_path


class Machine:
    """
    A machine of two cores, of which others take so many.
    """

    def __init__(self, cores: float) -> None:
        self._cores = cores

    def so_far(self) -> Foreign:
        return Foreign(self._cores, 0.0, 0.0, 2)


def report(measured: float) -> form.Report:
    found = form.Report("bench-test", "make bench-test", watch=cast(Watch, Machine(0.0)))
    found.add("one", {"calls/s": form.Samples((1.0, 3.0, 2.0))})
    found.checks = [form.Check("ratio", measured, 5.0, "x")]
    return found


@pytest.mark.parametrize(("measured", "code"), [(5.0, 0), (4.999, 1)])
def test_the_last_line_is_the_verdict(
    measured: float, code: int, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    """
    The very last line is one JSON object with every check, the exit code says whether all passed, a file has it all.
    """
    assert report(measured).close() == code
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    check = {"name": "ratio", "measured": measured, "required": 5.0, "unit": "x", "pass": code == 0}
    assert last == {"target": "bench-test", "verdict": "FAIL" if code else "PASS", "checks": [check]}
    written = json.loads((elsewhere / "bench-test.json").read_text())
    assert written["checks"] == [check]
    assert written["rounds"]["one"]["calls/s"] == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("measured", [5.0, 4.0])
def test_a_busy_machine_has_no_verdict(measured: float, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Where others took more than a tenth of the processor, neither a good nor a bad figure counts.
    """
    found = report(measured)
    found.watch = cast(Watch, Machine(0.21))
    assert found.close() == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == "NO VERDICT"


def test_a_missed_check_is_printed_as_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The table says MISSED, with what was measured and what was asked.
    """
    report(2.0).close()
    assert "MISSED  ratio: 2 x (asked: ≥ 5)" in capsys.readouterr().out


def test_lower_may_be_better() -> None:
    """
    A bound from above passes at the bound and misses beyond it.
    """
    assert form.Check("latency", 5.0, 5.0, "ms", better="lower").passed
    assert not form.Check("latency", 5.1, 5.0, "ms", better="lower").passed


def test_percentiles_are_by_the_nearest_rank() -> None:
    """
    The median of a hundred is the fifty-first, and the highest share is the last one.
    """
    ordered = [float(number) for number in range(100)]
    assert [percentile(ordered, share) for share in (0.0, 0.5, 0.99, 1.0)] == [0.0, 50.0, 99.0, 99.0]
