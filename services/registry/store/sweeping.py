"""
Keeps what is only kept for a time from growing for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.chassis.errors import ModelyardError
from services.registry.store.changelog import Changelog

_EVERY_SECONDS = 60.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def sweeping(log: Changelog, keep: timedelta) -> AsyncIterator[None]:
    """
    Trim the log of changes to *keep*, and forget yesterday's requests, while the block lasts.
    """
    task = asyncio.create_task(_sweep(log, keep))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sweep(log: Changelog, keep: timedelta) -> None:
    while True:
        # Several processes do this: never at the same moment.
        await asyncio.sleep(_EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        try:
            await log.trim(keep)
        except ModelyardError as error:
            _log.warning("could not trim the log of changes: %s", error)
