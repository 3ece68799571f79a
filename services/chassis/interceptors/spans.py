"""
A span for every call, where spans are exported.
"""

from __future__ import annotations

from typing import Any

from services.chassis.interceptors.base import CallInterceptor, Observer, outcome
from services.chassis.interceptors.call_context import current_call
from services.chassis.observability import tracing
from services.chassis.observability.tracing import Span, Spans
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context, status_of

# Health and reflection: asked every second by machines, and part of nobody's trace.
_ASIDE = "grpc."


class SpanInterceptor(CallInterceptor):
    """
    Export a span of each call. Within the log interceptor, which makes the current call.

    Args:
        spans: makes them.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def observe(self, method: Method) -> Observer:
        """
        An observer that begins and ends the spans of *method*.
        """
        return _Spanned(method, self._spans)

    def around(self, method: Method, proceed: Any) -> Any:
        """
        As for every interceptor, but for what is no part of a trace.
        """
        return proceed if method.service.startswith(_ASIDE) else super().around(method, proceed)


class _Spanned:
    __slots__ = ("_method", "_spans")

    def __init__(self, method: Method, spans: Spans) -> None:
        self._method = method
        self._spans = spans

    def begin(self, context: Context) -> Span:
        call = current_call()
        assert call is not None  # noqa: S101 - made by the interceptor outside of this one
        above = tracing.received(context.invocation_metadata() or ())
        call.span = self._spans.begin(self._method, above, call.request_id)
        return call.span

    def end(self, context: Context, span: Span) -> None:
        span.end(status_of(context))

    async def fail(self, context: Context, span: Span, error: BaseException) -> None:
        span.end(outcome(context, error))
