from __future__ import annotations

from pathlib import Path

import pytest

from deploy.checks.building import NoKustomizeError, build
from deploy.checks.suite import Suite


@pytest.fixture(scope="session")
def overlay() -> Suite:
    """
    The overlay of this folder.
    """
    try:
        return build(Path(__file__).with_name("overlay"))
    except NoKustomizeError as error:
        pytest.skip(str(error))
