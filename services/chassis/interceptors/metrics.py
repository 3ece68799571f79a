"""
Counts every call and every message, by the names that gRPC dashboards know.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.calls import Method
from services.chassis.context import Context, status_of
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
        return _Counter(method, self._metrics.of(method))

    def around(self, method: Method, proceed: Any) -> Any:
        """
        As for every interceptor, with streams counted by the message.
        """
        stats = self._metrics.of(method)
        if method.kind.requests_stream:
            proceed = _counting_requests(stats, proceed)
        if method.kind.responses_stream:
            proceed = _counting_responses(stats, proceed)
        return super().around(method, proceed)


class _Counter:
    __slots__ = ("_received", "_sent", "_stats")

    def __init__(self, method: Method, stats: MethodStats) -> None:
        self._stats = stats
        self._received = 0 if method.kind.requests_stream else 1
        self._sent = 0 if method.kind.responses_stream else 1

    def begin(self, _context: Context) -> float:
        stats = self._stats
        stats.started += 1
        stats.received += self._received
        return time.perf_counter()

    def end(self, context: Context, started: float) -> None:
        stats = self._stats
        stats.sent += self._sent
        stats.handled(_OK if context.code() is None else status_of(context), time.perf_counter() - started)

    async def fail(self, context: Context, started: float, error: BaseException) -> None:
        self._stats.handled(outcome(context, error), time.perf_counter() - started)


def _counting_requests(stats: MethodStats, proceed: Any) -> Callable[[Any, Context], Any]:
    # A plain function: what it returns is the coroutine or the generator of the behaviour itself.
    def call(requests: AsyncIterator[Any], context: Context) -> Any:
        return proceed(_Counted(requests, stats), context)

    return call


def _counting_responses(
    stats: MethodStats, proceed: Callable[[Any, Context], AsyncGenerator[Any, None]]
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with aclosing(proceed(request, context)) as responses:
            async for response in responses:
                yield response
                stats.sent += 1

    return call


class _Counted:
    """
    The requests of a stream, counted as they are taken.
    """

    __slots__ = ("_next", "_stats")

    def __init__(self, requests: AsyncIterator[Any], stats: MethodStats) -> None:
        self._next = aiter(requests).__anext__
        self._stats = stats

    def __aiter__(self) -> _Counted:
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        self._stats.received += 1
        return message
