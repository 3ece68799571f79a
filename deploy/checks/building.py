"""
Build an overlay with Kustomize: with kubectl or kustomize from PATH, else with one that is built once from its source.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from deploy import secrets
from deploy.checks.suite import Suite
from embedded.golang import GoProgram

KUSTOMIZE = GoProgram("kustomize", "v5.7.1", "sigs.k8s.io/kustomize/kustomize/v5")
OVERLAYS = Path(__file__).resolve().parents[1] / "overlays"


class BuildError(Exception):
    """
    An overlay does not build; the message is Kustomize's.
    """


class NoKustomizeError(BuildError):
    """
    Kustomize is not installed and cannot be built.
    """


def build(folder: Path) -> Suite:
    """
    The objects of an overlay.

    Raises:
        BuildError: it does not build.
        NoKustomizeError: nothing here can build it.
    """
    done = subprocess.run([*_command(), str(folder)], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BuildError(f"{folder.name}: {done.stderr.strip()}")
    return Suite(folder.name, tuple(each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each))


def build_all() -> dict[str, Suite]:
    """
    All overlays of this repository by name, with generated secrets.

    Raises:
        BuildError: as of `build`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "deploy"
        shutil.copytree(OVERLAYS.parent, copy, ignore=shutil.ignore_patterns("secrets", "tests", "__pycache__"))
        secrets.make(copy / "overlays" / "local" / "secrets")
        return {path.name: build(path) for path in sorted((copy / "overlays").iterdir())}


def _command() -> Sequence[str]:
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    try:
        return [str(KUSTOMIZE.provide()), "build"]
    except OSError as error:
        raise NoKustomizeError(f"neither kubectl nor kustomize is on PATH, and {error}") from error
