"""
The Dockerfile keeps to the rules of images, and scripts are what a shell understands.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[1]
DOCKERFILE = DEPLOY / "Dockerfile"


def _hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "hadolint"), "--no-color", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_says_nothing() -> None:
    """
    hadolint finds nothing at any level.
    """
    done = _hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_can_say_something(tmp_path: Path) -> None:
    """
    A base of any tag, and a package of any version, are found.
    """
    text = DOCKERFILE.read_text().replace("FROM ${BASE} AS build", "FROM python AS build\nRUN apt-get install gcc")
    (tmp_path / "Dockerfile").write_text(text)
    done = _hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3006" in done.stdout
    assert "DL3008" in done.stdout


def test_what_runs_has_no_compiler_and_is_not_root() -> None:
    """
    The last stage only copies from the one before: nothing is installed in it; its user is a number other than 0.
    """
    last = DOCKERFILE.read_text().split("\nFROM ")[-1]
    assert "RUN" not in re.findall(r"^[A-Z]+", last, re.MULTILINE)
    assert re.findall(r"^COPY (.*)", last, re.MULTILINE) == ["--from=build /opt/modelyard /opt/modelyard"]
    assert re.findall(r"^USER (.*)", last, re.MULTILINE) == ["65532:65532"]
    assert re.findall(r"^ARG BASE(.*)", DOCKERFILE.read_text(), re.MULTILINE) == [""]


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_understood(script: Path) -> None:
    """
    bash reads the script to its end.
    """
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, timeout=30, check=False).stderr == b""


def _pins(name: str) -> set[str]:
    text = (DEPLOY.parent / "requirements" / name).read_text()
    return set(re.findall(r"^[a-z0-9._-]+==\S+", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["client", "services", "otlp", "gateway", "image"])
def test_what_is_installed_was_tested(name: str) -> None:
    """
    Each locked set has the versions that the tests run with: the sets can be installed together, too.
    """
    assert _pins(f"{name}.txt")
    assert _pins(f"{name}.txt") <= _pins("dev.txt")
