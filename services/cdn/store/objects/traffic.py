"""
Metrics of S3 requests: calls by operation and outcome, durations and bytes. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from botocore.utils import determine_content_length

from services.chassis.observability.histograms import Histogram

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks

_BEGAN = "modelyard_began"
_OUTCOMES = {404: "absent", 412: "taken", 416: "past_end"}
# 409 means that a conditional write to this key is in progress: retry.
_FOR_NOW = {408, 409, 429, 500, 502, 503, 504, 507}


class Traffic:
    """
    Counts the calls of a session's clients, after botocore's retries.

    Cardinality is bounded: operations are those of S3's API, outcomes see `outcome`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Histogram] = {}
        self._bytes: dict[tuple[str, str], int] = {}

    def watch(self, events: BaseEventHooks) -> None:
        """
        Count the calls of all clients with these event hooks.
        """
        events.register("before-call.s3", self._begun)
        events.register("after-call.s3", self._answered)
        events.register("after-call-error.s3", self._silent)

    def moved(self, operation: str, direction: str, count: int) -> None:
        """
        Count bytes of objects.

        Args:
            operation: of S3.
            direction: "sent" or "received".
            count: of bytes.
        """
        with self._lock:
            self._bytes[operation, direction] = self._bytes.get((operation, direction), 0) + count

    def calls(self) -> dict[tuple[str, str], int]:
        """
        Completed calls, by operation and outcome.
        """
        with self._lock:
            return dict(self._calls)

    def durations(self) -> dict[str, tuple[list[tuple[str, float]], float]]:
        """
        Histograms of durations by operation: the buckets and the sum. Downloads are measured to the first byte.
        """
        with self._lock:
            return {operation: (each.buckets(), each.total) for operation, each in self._durations.items()}

    def bytes(self) -> dict[tuple[str, str], int]:
        """
        Bytes of objects, by operation and direction.
        """
        with self._lock:
            return dict(self._bytes)

    def _begun(self, params: dict[str, Any], context: dict[str, Any], **_more: Any) -> None:
        context[_BEGAN] = time.perf_counter(), determine_content_length(params.get("body")) or 0

    def _answered(self, parsed: dict[str, Any], context: dict[str, Any], event_name: str, **_more: Any) -> None:
        self._ended(event_name, context, outcome(parsed["ResponseMetadata"]["HTTPStatusCode"]))

    def _silent(self, context: dict[str, Any], event_name: str, **_more: Any) -> None:
        self._ended(event_name, context, "silent")

    def _ended(self, event_name: str, context: dict[str, Any], how: str) -> None:
        operation = event_name.rpartition(".")[2]
        began, size = context[_BEGAN]
        with self._lock:
            self._calls[operation, how] = self._calls.get((operation, how), 0) + 1
            self._durations.setdefault(operation, Histogram()).observe(time.perf_counter() - began)
        if size and how == "ok":
            self.moved(operation, "sent", size)


def outcome(status: int) -> str:
    """
    Classify an HTTP status of S3: ok, absent, taken, past_end, busy (transient) or refused.
    """
    if status < 400:
        return "ok"
    if status in _FOR_NOW:
        return "busy"
    return _OUTCOMES.get(status, "refused")
