from __future__ import annotations

import pytest

from deploy.checks.building import NoKustomizeError, build_all
from deploy.checks.suite import Suite


@pytest.fixture(scope="session")
def built() -> dict[str, Suite]:
    """
    Every overlay, by name.
    """
    try:
        return build_all()
    except NoKustomizeError as error:
        pytest.skip(str(error))
