"""
A Prometheus of the tests' own, on loopback, where its programs are installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.__main__ import FOLDER
from embedded.parts import free_port


def program(name: str) -> str:
    """
    The path of promtool or prometheus; without it the test is skipped.
    """
    found = shutil.which(name)
    if found is None:
        pytest.skip(
            f"{name} is not installed: `apt install prometheus` on Debian and Ubuntu, `brew install prometheus`"
        )
    return found


class Prometheus:
    """
    A running Prometheus.

    Args:
        address: its host:port.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """
        What an expression gives now.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        asked = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{asked}", timeout=30) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return found

    def ready(self) -> bool:
        """
        Whether it answers.
        """
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def scraping(folder: Path, pages: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """
    Run Prometheus with the rules, every second.

    Args:
        folder: for its data.
        pages: of metrics, by job.
    """
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in _quick_rules(folder)],
        "scrape_configs": [_job(name, urls) for name, urls in pages.items()],
    }
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program("prometheus"), *options], stdout=log, stderr=log)
    try:
        prometheus = Prometheus(address)
        while not prometheus.ready():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def _quick_rules(folder: Path) -> Iterator[Path]:
    for path in sorted((FOLDER / "rules").glob("*.yaml")):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        quick = folder / path.name
        quick.write_text(yaml.safe_dump(rules))
        yield quick


def _job(name: str, urls: Sequence[str]) -> dict[str, Any]:
    parsed = [urllib.parse.urlsplit(url) for url in urls]
    return {
        "job_name": name,
        "metrics_path": parsed[0].path,
        "static_configs": [{"targets": [one.netloc for one in parsed]}],
    }
