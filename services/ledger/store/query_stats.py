"""
Statistics of statements by name, and a log of the slow ones: names, times and plans, never values.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, ItemsView

from services.chassis.observability.histograms import Histogram
from services.ledger.store.statements import Statement

_log = logging.getLogger(__name__)

# A statement that is slow a thousand times a second must not be logged as often.
_LOG_EVERY_SECONDS = 1.0


class QueryStats:
    """
    The statistics of one statement.

    Attributes:
        durations: of those that succeeded and those that failed.
        rows: number of rows returned.
        errors: how often it failed, by the class of the error.
    """

    __slots__ = ("durations", "errors", "logged", "rows", "unlogged")

    def __init__(self) -> None:
        self.durations = Histogram()
        self.rows = 0
        self.errors: dict[str, int] = {}
        self.logged = float("-inf")
        self.unlogged = 0


class QueryRecorder:
    """
    Counts statements.

    Args:
        slow: seconds from which a statement is logged.

    Attributes:
        on_slow: called with a slow statement that has been logged.
    """

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self._stats: dict[str, QueryStats] = {}
        self.on_slow: Callable[[Statement], None] = lambda _statement: None

    def items(self) -> ItemsView[str, QueryStats]:
        """
        The statistics of all statements by name.
        """
        return dict(self._stats).items()

    def done(self, statement: Statement, began: float, rows: int) -> None:
        """
        Count a statement that succeeded.

        Args:
            began: when, by `time.perf_counter`.
            rows: how many it returned.
        """
        seconds = time.perf_counter() - began
        stats = self._stats.get(statement.name)
        if stats is None:
            stats = self._stats.setdefault(statement.name, QueryStats())
        stats.durations.observe(seconds)
        stats.rows += rows
        if seconds >= self._slow:
            self._tell(statement, stats, seconds)

    def failed(self, statement: Statement, began: float, error: BaseException) -> None:
        """
        Count a statement that failed or was cancelled.
        """
        seconds = time.perf_counter() - began
        stats = self._stats.setdefault(statement.name, QueryStats())
        stats.durations.observe(seconds)
        kind = type(error).__name__
        stats.errors[kind] = stats.errors.get(kind, 0) + 1
        if seconds >= self._slow:
            self._tell(statement, stats, seconds)

    def _tell(self, statement: Statement, stats: QueryStats, seconds: float) -> None:
        now = time.monotonic()
        if now - stats.logged < _LOG_EVERY_SECONDS:
            stats.unlogged += 1
            return
        more = f" (and {stats.unlogged} more since the last line)" if stats.unlogged else ""
        stats.logged, stats.unlogged = now, 0
        _log.warning(
            "slow query: %s took %.0f ms%s",
            statement.name,
            seconds * 1000,
            more,
            extra={"statement": statement.name, "seconds": round(seconds, 6)},
        )
        self.on_slow(statement)
