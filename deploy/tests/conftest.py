from __future__ import annotations

import pytest

from deploy.checks.building import build_all
from deploy.checks.suite import Suite
from deploy.tests.building import build_once


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Suite]:
    """
    Every overlay, by name.
    """
    return build_once(tmp_path_factory, "overlays", build_all)
