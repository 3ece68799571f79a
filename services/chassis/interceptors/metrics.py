"""
Counts every call and every message, by the names that gRPC dashboards know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc

from services.chassis.calls import Handler, Method, with_serializers
from services.chassis.context import Context, status_of
from services.chassis.histograms import Histogram
from services.chassis.interceptors.base import CallInterceptor, Observer, outcome
from services.chassis.metrics import CallMetrics, MethodStats

_OK = grpc.StatusCode.OK


class MetricsInterceptor(CallInterceptor):
    """
    Measure every call. The outermost interceptor: it sees what the client sees.
    """

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    def observe(self, method: Method) -> Observer:
        """
        An observer that counts the calls of *method*.
        """
        return _Counter(self._metrics.of(method))


class _Counter:
    __slots__ = ("_stats",)

    def __init__(self, stats: MethodStats) -> None:
        self._stats = stats

    def begin(self, _context: Context) -> float:
        self._stats.started += 1
        return time.perf_counter()

    def end(self, context: Context, started: float) -> None:
        self._stats.handled(_OK if context.code() is None else status_of(context), time.perf_counter() - started)

    async def fail(self, context: Context, started: float, error: BaseException) -> None:
        self._stats.handled(outcome(context, error), time.perf_counter() - started)


def measured(handler: Handler, stats: MethodStats) -> Handler:
    """
    *handler* with its messages counted and measured where they are bytes anyway: a message that is measured within the
    call would be serialised once more.
    """
    return with_serializers(
        handler,
        _deserializing(stats.received, handler.request_deserializer),
        _serializing(stats.sent, handler.response_serializer),
    )


def _deserializing(sizes: Histogram, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    observe = sizes.observe

    def plain(message: bytes) -> bytes:
        observe(len(message))
        return message

    def parse(message: bytes) -> Any:
        observe(len(message))
        return deserialize(message)  # type: ignore[misc] # used only when there is one

    return plain if deserialize is None else parse


def _serializing(sizes: Histogram, serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    observe = sizes.observe
    make: Callable[[Any], bytes] = serialize or bytes

    def write(response: Any) -> bytes:
        message = make(response)
        observe(len(message))
        return message

    return write
