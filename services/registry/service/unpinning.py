"""
Takes back the pins of versions that are gone, in the background.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.serving.background import beside, every
from services.registry.service.pins import Pins

_EVERY_SECONDS = 5.0


@asynccontextmanager
async def unpinning(pins: Pins) -> AsyncIterator[None]:
    """
    Take back what is due, while the block lasts.
    """
    async with beside(every(_EVERY_SECONDS, pins.pay_due, "take pins back")):
        yield
