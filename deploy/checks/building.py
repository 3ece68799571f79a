"""
Build an overlay with Kustomize: with kubectl or kustomize from PATH, else with one that is built once from its source.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from deploy.checks.suite import Suite
from services.embedded.golang import GoProgram

KUSTOMIZE = GoProgram("kustomize", "v5.7.1", "sigs.k8s.io/kustomize/kustomize/v5")
OVERLAYS = Path(__file__).resolve().parents[1] / "overlays"


class BuildError(Exception):
    """
    An overlay does not build; the message is Kustomize's.
    """


def build(folder: Path) -> Suite:
    """
    The objects of an overlay.

    Raises:
        BuildError: it does not build, or Kustomize is not to be had.
    """
    done = subprocess.run([*_command(), str(folder)], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BuildError(f"{folder.name}: {done.stderr.strip()}")
    return Suite(folder.name, tuple(each for each in yaml.safe_load_all(done.stdout) if each))


def overlays() -> list[Path]:
    """
    All of ours.
    """
    return sorted(path.parent for path in OVERLAYS.glob("*/kustomization.yaml"))


def _command() -> Sequence[str]:
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    try:
        return [str(KUSTOMIZE.provide()), "build"]
    except OSError as error:
        raise BuildError(f"neither kubectl nor kustomize is on PATH, and {error}") from error
