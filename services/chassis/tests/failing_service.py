"""
A service that cannot be composed: `python -m services.chassis.tests.failing_service`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.serving.server import Server, main

WHY = "the database at 127.0.0.1:1 does not answer: start it"


@asynccontextmanager
async def compose(_server: Server) -> AsyncIterator[None]:
    """
    Raises:
        ConnectionError: always.
    """
    raise ConnectionError(WHY)
    yield  # makes it a generator, as every composition root is


if __name__ == "__main__":
    main("services.chassis.tests.failing_service", compose)
