"""
Request ids, and one line per call that somebody will want to read.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import grpc

from services.chassis.calls import Kind, Method
from services.chassis.context import Context, status_of
from services.chassis.interceptors.base import CallInterceptor, Observer, outcome
from services.chassis.interceptors.current import REQUEST_ID, CurrentCall, enter, named

_log = logging.getLogger(__name__)
_DEBUG: Final = logging.DEBUG

# At DEBUG: ordinary answers, that a busy reader may get by the thousand per second, and INTERNAL, whose one record is
# written with its traceback by the error interceptor. At INFO: a caller's mistakes. At WARNING: our troubles.
_LEVELS = {
    grpc.StatusCode.OK: _DEBUG,
    grpc.StatusCode.CANCELLED: _DEBUG,
    grpc.StatusCode.NOT_FOUND: _DEBUG,
    grpc.StatusCode.ALREADY_EXISTS: _DEBUG,
    grpc.StatusCode.ABORTED: _DEBUG,
    grpc.StatusCode.INTERNAL: _DEBUG,
    grpc.StatusCode.DATA_LOSS: _DEBUG,
    grpc.StatusCode.UNKNOWN: logging.WARNING,
    grpc.StatusCode.UNAVAILABLE: logging.WARNING,
    grpc.StatusCode.DEADLINE_EXCEEDED: logging.WARNING,
    grpc.StatusCode.RESOURCE_EXHAUSTED: logging.WARNING,
}


class LogInterceptor(CallInterceptor):
    """
    Give each call its request id, echo it, and log what went wrong or took long.

    Args:
        slow: seconds after which a unary call is worth a warning. Streams are long by nature.
    """

    def __init__(self, slow: float) -> None:
        self._slow = slow

    def observe(self, method: Method) -> Observer:
        """
        An observer that logs the calls of *method*.
        """
        return _Lines(method, self._slow if method.kind is Kind.UNARY_UNARY else float("inf"))


class _Lines:
    __slots__ = ("_method", "_slow")

    def __init__(self, method: Method, slow: float) -> None:
        self._method = method
        self._slow = slow

    def begin(self, context: Context) -> CurrentCall:
        call = CurrentCall(self._method, context, time.perf_counter())
        enter(call)
        return call

    def end(self, context: Context, call: CurrentCall) -> None:
        context.set_trailing_metadata((*context.trailing_metadata(), (REQUEST_ID, call.request_id)))
        if time.perf_counter() - call.started > self._slow or _log.isEnabledFor(_DEBUG):
            self._line(call, status_of(context))

    async def fail(self, context: Context, call: CurrentCall, error: BaseException) -> None:
        self._line(call, outcome(context, error))

    def _line(self, call: CurrentCall, code: grpc.StatusCode) -> None:
        taken = time.perf_counter() - call.started
        level = _LEVELS.get(code, logging.INFO)
        if taken > self._slow:
            level = max(level, logging.WARNING)
        if not _log.isEnabledFor(level):
            return
        fields = {
            "service": self._method.service,
            "method": self._method.name,
            "code": code.name,
            "duration_ms": round(taken * 1000, 3),
            "caller": call.caller,
            "peer": call.context.peer(),
            # Here as well, because the end of a stream may come in the context of whoever closes it.
            **named(call),
        }
        _log.log(level, "%s %s in %.1f ms", self._method.path, code.name, taken * 1000, extra=fields)
