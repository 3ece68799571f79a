"""
Work that goes on after the call that caused it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from services.chassis.errors import ModelyardError

_log = logging.getLogger(__name__)


class Chores:
    """
    Keeps background tasks alive and waits for them in the end (the event loop itself holds tasks weakly).
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Start *work*; what it raises is logged.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ModelyardError):
            # The database or the object store is away: the sweep ends what was begun.
            _log.warning("work in the background was given up: %s", error)
        elif error is not None:
            _log.error("work in the background failed", exc_info=error)

    async def finish(self, seconds: float) -> None:
        """
        Wait up to *seconds* for all of them, then cancel the rest.
        """
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
