"""
Counts the retries of writes by cause: a retry that succeeds costs time and is otherwise invisible.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from enum import StrEnum

_log = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 1.0


class Cause(StrEnum):
    """
    Why a write is retried.
    """

    #: A deadlock or a serialization failure. The fixed lock order should prevent both.
    CONFLICT = "conflict"
    #: Another transaction holds a row lock.
    LOCK = "lock"
    #: Another write of its group failed after the revision was taken.
    FAILURE = "failure"


class Retries:
    """
    Counts and logs them.

    Attributes:
        counts: how many writes, by cause.
    """

    def __init__(self) -> None:
        self.counts: Counter[Cause] = Counter()
        self._logged: dict[Cause, float] = {}
        self._unlogged: Counter[Cause] = Counter()

    def count(self, cause: Cause, writes: int, why: object) -> None:
        """
        Count writes that are about to be retried.

        Args:
            why: for the log: what happened, without values.
        """
        self.counts[cause] += writes
        self._unlogged[cause] += writes
        now = time.monotonic()
        if now - self._logged.get(cause, float("-inf")) < _LOG_EVERY_SECONDS:
            return
        writes, self._logged[cause] = self._unlogged.pop(cause), now
        extra = {"cause": cause.value, "writes": writes}
        _log.warning("retrying %d writes (%s): %s", writes, cause.value, why, extra=extra)
