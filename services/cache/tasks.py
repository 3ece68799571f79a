"""
Ends what runs in the background.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


async def end(task: asyncio.Task[Any] | None) -> None:
    """
    Cancel *task* and wait until it has ended; what it raises is lost.

    It is asked again when it goes on: a library in between may take the cancellation for its own time-out.
    """
    if task is None:
        return
    while not task.done():
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
        if not done:
            _log.warning("%s goes on although it was cancelled: it is asked again", task)
