from __future__ import annotations

from pathlib import Path

import pytest

from deploy.checks.building import build
from deploy.checks.suite import Suite
from deploy.tests.building import build_once


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """
    The overlay in this folder.
    """
    return build_once(tmp_path_factory, "outside", lambda: build(Path(__file__).with_name("overlay")))
