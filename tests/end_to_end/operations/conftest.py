from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.testing import scratch
from tests.end_to_end.operations.estate import Estate


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    """
    A suite with passwords, a Valkey Cluster and two instances of each service and of the gateway.
    """
    with scratch() as state:
        found = Estate(state)
        try:
            found.start()
            yield found
        finally:
            found.stop()
