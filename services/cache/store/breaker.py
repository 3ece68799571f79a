"""
A circuit breaker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.chassis.serving.background import begin, end

_log = logging.getLogger(__name__)


class Breaker:
    """
    A circuit breaker (Nygard, "Release It!", 2007) whose trial calls delay no caller: while it is open, a background
    task probes the server periodically.

    Args:
        trial: the probe; raises while the server is unavailable.
        failures: consecutive failures that open it.
        rest: seconds between two probes.

    Attributes:
        opened: how many times it has opened.
    """

    __slots__ = ("_failed", "_failures", "_rest", "_task", "_trial", "_trying", "opened")

    def __init__(self, trial: Callable[[], Awaitable[object]], *, failures: int = 3, rest: float = 0.5) -> None:
        self._trial = trial
        self._failures = failures
        self._rest = rest
        self._failed = 0
        self._trying = False
        self._task: asyncio.Task[None] | None = None
        self.opened = 0

    @property
    def closed(self) -> bool:
        """
        Whether calls go through.
        """
        return self._task is None

    @property
    def state(self) -> str:
        """
        closed, open, or half-open while a probe is in progress.
        """
        if self._task is None:
            return "closed"
        return "half-open" if self._trying else "open"

    def succeeded(self) -> None:
        """
        Record a success.
        """
        self._failed = 0

    def failed(self) -> None:
        """
        Record a failure.
        """
        self._failed += 1
        if self._failed >= self._failures:
            self.trip()

    def trip(self) -> None:
        """
        Open it.
        """
        if self._task is None:
            self.opened += 1
            _log.warning("valkey does not answer: the circuit breaker is open until it does")
            self._task = begin(self._until_it_answers())

    async def close(self) -> None:
        """
        Stop probing.
        """
        await end(self._task)

    async def _until_it_answers(self) -> None:
        while True:
            await asyncio.sleep(self._rest)
            self._trying = True
            answered = await self._answers()
            self._trying = False
            if answered:
                break
        _log.info("valkey answers again")
        self._failed = 0
        self._task = None

    async def _answers(self) -> bool:
        try:
            await self._trial()
        except Exception as error:  # noqa: BLE001 - any error means that it is still unavailable
            _log.debug("valkey still does not answer: %s", error)
            return False
        return True
