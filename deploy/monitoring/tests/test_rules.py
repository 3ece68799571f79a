"""
The rules are what the objectives say, load, and fire when they should; each alert has its tests and its page.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.__main__ import FOLDER
from deploy.monitoring.__main__ import generated as generate
from deploy.monitoring.objectives import FAULTS, cached_reads, objectives
from deploy.monitoring.tests.prometheus import program
from services.chassis.observability.histograms import CALL_SECONDS

RULES = sorted((FOLDER / "rules").glob("*.yaml"))
TESTS = sorted((FOLDER / "rules" / "tests").glob("*.yaml"))
ROOT = FOLDER.parents[1]
GENERATED = [
    FOLDER / "rules" / "objectives.yaml",
    FOLDER / "prometheus-rule.yaml",
    *sorted((FOLDER / "dashboards").iterdir()),
]


@cache
def _rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


@cache
def _tests() -> list[dict[str, Any]]:
    return [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]


ALERTS = sorted({rule["alert"] for rule in _rules() if "alert" in rule})


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """
    The files that are generated, with their content.
    """
    return generate()


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path: Path, generated: dict[Path, str]) -> None:
    """
    The files are what `make monitoring` writes, and there are no others.
    """
    assert path.read_text() == generated[path], "run `make monitoring`"
    assert set(generated) == set(GENERATED)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_rules_load(path: Path) -> None:
    """
    promtool finds nothing wrong with a file.
    """
    found = subprocess.run([program("promtool"), "check", "rules", path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_alerts_fire_when_they_should(path: Path) -> None:
    """
    promtool runs the rules over the series of the tests, and nothing else fires than what they say.
    """
    command = [program("promtool"), "test", "rules", str(path)]
    # It allocates far more than it retains: half of its time is garbage collection otherwise.
    environment = {**os.environ, "GOGC": "400"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_tests_and_its_page(alert: str) -> None:
    """
    One test in which it fires, with each of its severities, one in which it does not, and a page that says what to do.
    """
    mine = [test for test in _tests() if test["name"].startswith(f"{alert} ")]
    fired = [str(test["promql_expr_test"][0]["exp_samples"]) for test in mine]
    severities = {rule["labels"]["severity"] for rule in _rules() if rule.get("alert") == alert}
    for severity in severities:
        assert any(f'alertname="{alert}", severity="{severity}"' in samples for samples in fired), severity
    assert any(alert not in samples for samples in fired)
    for rule in _rules():
        if rule.get("alert") == alert:
            assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    page = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    for part in ("## What it means", "## Diagnosis", "## Mitigation"):
        assert part in page


def test_every_page_has_its_alert() -> None:
    """
    There is no page for what does not exist.
    """
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(ALERTS)


def test_bounds_are_buckets() -> None:
    """
    An objective's bound is one of the histogram's, so that nothing is guessed between two.
    """
    bounds = set(map(str, CALL_SECONDS))
    ours = ("grpc_server_handling_seconds", "http_server_request_duration_seconds")
    of_calls = [each.bad for each in objectives() if any(name in each.bad for name in ours)]
    asked = {bound for bad in of_calls for bound in re.findall(r'le="([^"]+)"', bad)}
    assert asked
    assert asked <= bounds


def test_one_list_of_faults() -> None:
    """
    The rules that are written by hand know the same codes as the objectives.
    """
    assert set(re.findall(r'grpc_code!~"([^"]+)"', (FOLDER / "rules" / "calls.yaml").read_text())) == {FAULTS}


def test_the_reads_come_from_the_contract() -> None:
    """
    Reads of models are among those that are cached, searches and writes are not.
    """
    reads = cached_reads()
    assert {"GetModel", "ListModels", "GetVersion", "GetCard"} <= set(reads)
    assert not {"SearchModels", "CreateModel"} & set(reads)
