from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import secrets
from deploy.checks.building import KUSTOMIZE, OVERLAYS, BuildError, build
from deploy.checks.suite import Suite


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Suite]:
    """
    Every overlay, built from a copy of the tree in which the secrets of `local` have been made.
    """
    copy = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(
        OVERLAYS.parent, copy, ignore=shutil.ignore_patterns("secrets", "tests", "__pycache__", "terraform")
    )
    secrets.make(copy / "overlays" / "local" / "secrets")
    try:
        return {path.name: build(path) for path in _folders(copy)}
    except BuildError as error:
        if "is on PATH, and" in str(error):
            pytest.skip(f"{error}: {KUSTOMIZE.name} is needed to build the overlays")
        raise


def _folders(copy: Path) -> Iterator[Path]:
    return (path.parent for path in sorted((copy / "overlays").glob("*/kustomization.yaml")))
