"""
Work that goes on beside the calls.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from services.chassis.errors import ModelyardError

_log = logging.getLogger(__name__)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """
    Do *works* while the block lasts; then cancel those that have not ended and wait for them.

    Nobody awaits them before the end: when a mistake ends one of them, that is logged as an error at once.
    """
    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def every(seconds: float, work: Callable[[], Awaitable[object]], doing: str) -> None:
    """
    Do *work* now and then, for ever. An error is logged, and *work* is done again at its next turn.

    Args:
        seconds: from the end of one turn to the next, on average: several processes never do it at the same moment.
        doing: what it is, for the log: "sweep".
    """
    while True:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        try:
            await work()
        except ModelyardError as error:
            _log.warning("could not %s: %s", doing, error)
        except Exception:  # noqa: BLE001 - whatever it is, the next turn may succeed
            _log.exception("could not %s, by mistake", doing)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("work in the background has ended: %s", error, exc_info=error)
