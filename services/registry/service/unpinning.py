"""
Takes back the pins of versions that are gone, in the background.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.background import beside
from services.chassis.errors import ModelyardError
from services.registry.service.pins import Pins

_EVERY_SECONDS = 5.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def unpinning(pins: Pins) -> AsyncIterator[None]:
    """
    Take back what is due, while the block lasts.
    """
    async with beside(_unpin(pins)):
        yield


async def _unpin(pins: Pins) -> None:
    while True:
        # Several processes do this: never at the same moment.
        await asyncio.sleep(_EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        try:
            await pins.pay_due()
        except ModelyardError as error:
            _log.warning("could not take pins back: %s", error)
