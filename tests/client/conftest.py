"""
Clients of the suite's gateway.
"""

from __future__ import annotations

import pytest

from services.embedded.stack import Stack


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> str:
    """
    The address of the gateway.
    """
    return stack.gateway
