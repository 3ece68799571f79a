"""
Metrics and access log of calls, as the client sees them: from arrival until the last byte of the answer is handed
over, whether the call reached a handler or not. The hosts record, because only they see all of that.
"""

from __future__ import annotations

import logging
from typing import Final

import grpc

from services.chassis.access.callers import Proxies
from services.chassis.interceptors.call_context import CurrentCall, named
from services.chassis.observability.metrics import CallMetrics, MethodStats
from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.context import Context

_log = logging.getLogger(__name__)
_DEBUG: Final = logging.DEBUG
_OK: Final = grpc.StatusCode.OK

_NOBODY: Final = Proxies(())

#: One name for all calls of unknown methods: each made-up name would be a time series.
UNKNOWN: Final = Method("", "unknown", "unknown", Kind.UNARY_UNARY)

# At DEBUG: ordinary answers, that a busy reader may get by the thousand per second, and INTERNAL, whose one record is
# written with its traceback by the error interceptor. At INFO: client errors. At WARNING: server errors.
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


class Recorder:
    """
    Counts and logs the calls of one method. These run on every call: half a microsecond together.

    Args:
        method: whose calls.
        stats: where to count.
        slow: seconds after which a call is worth a warning.
        proxies: see `Recorders`.
    """

    __slots__ = ("_method", "_proxies", "_slow", "_stats")

    def __init__(self, method: Method, stats: MethodStats, slow: float, proxies: Proxies) -> None:
        self._method = method
        self._stats = stats
        self._slow = slow
        self._proxies = proxies

    def begin(self) -> None:
        """
        A call has arrived.
        """
        self._stats.started += 1

    def end(
        self,
        code: grpc.StatusCode,
        seconds: float,
        context: Context | None,
        call: CurrentCall | None,
        refused: str = "",
        peer: str = "",
    ) -> None:
        """
        A call has ended.

        Args:
            code: that its client sees.
            seconds: since it arrived.
            context: of the call; None if the host does not give one to calls that reach no handler.
            call: as the interceptors know it; None for a call that did not get so far.
            refused: what the host itself had against it.
            peer: where it came from, if *context* cannot be asked any more.
        """
        self._stats.handled(code, seconds)
        slow = seconds > self._slow
        if code is _OK and not slow and not _log.isEnabledFor(_DEBUG):
            return
        level = _LEVELS.get(code, logging.INFO)
        if slow:
            level = max(level, logging.WARNING)
        if refused:
            # Nobody else writes of it.
            level = max(level, logging.INFO)
        if _log.isEnabledFor(level):
            self._line(level, code, seconds, context if call is None else call, refused, peer)

    def _line(
        self,
        level: int,
        code: grpc.StatusCode,
        seconds: float,
        of: Context | CurrentCall | None,
        refused: str,
        peer: str,
    ) -> None:
        fields: dict[str, object] = {
            "service": self._method.service,
            "method": self._method.name,
            "code": code.name,
            "duration_ms": round(seconds * 1000, 3),
        }
        if of is not None:
            call = of if isinstance(of, CurrentCall) else CurrentCall(self._method, of, peer=peer or of.peer())
            peer = peer or call.peer
            fields |= {
                "caller": call.caller,
                "client": self._proxies.client(call.context, peer),
                "peer": peer,
                **named(call),
            }
        if refused:
            fields["refused"] = refused
        _log.log(level, "%s %s in %.1f ms", self._method.path or "unknown", code.name, seconds * 1000, extra=fields)


class Recorders:
    """
    The recorders of a process.

    Args:
        calls: where to count.
        slow: seconds after which a unary call is logged as a warning. Streams are long by nature.
        proxies: who is believed about the addresses of clients.

    Attributes:
        unknown: of calls of what is not served.
    """

    def __init__(self, calls: CallMetrics, slow: float = 0.5, proxies: Proxies = _NOBODY) -> None:
        self._calls = calls
        self._slow = slow
        self._proxies = proxies
        self._by_path: dict[str, Recorder] = {}
        self.unknown = self._make(UNKNOWN)

    def of(self, method: Method) -> Recorder:
        """
        The recorder of *method*, which counts from zero on: ask when it is registered.
        """
        found = self._by_path.get(method.path)
        if found is None:
            found = self._by_path[method.path] = self._make(method)
        return found

    def at(self, path: str) -> Recorder:
        """
        The recorder of a method by its path, which was asked for by `of` before.
        """
        return self._by_path[path]

    def _make(self, method: Method) -> Recorder:
        slow = self._slow if method.kind is Kind.UNARY_UNARY else float("inf")
        return Recorder(method, self._calls.of(method), slow, self._proxies)
