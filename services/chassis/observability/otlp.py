"""
The only module that imports OpenTelemetry: `services.chassis.observability.span_export` does, where spans are exported.
"""

from __future__ import annotations

import os
import socket

import grpc
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from services.chassis.observability.metrics import installed
from services.chassis.observability.tracing import Span, Trace
from services.chassis.serving.calls import Method

# An attempt to send, with those that follow it.
_SEND_SECONDS = 5.0

# The statuses that are a server's own failure (OpenTelemetry's conventions for gRPC); to a client every one is.
_FAILURES = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Collector:
    """
    Makes spans and sends them in batches from a thread; drops them when more wait than it may keep.

    What is sampled, how many wait, and headers and certificates for the collector are OpenTelemetry's own settings
    (`OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`, `OTEL_EXPORTER_OTLP_…`).

    Args:
        endpoint: http://host:port, or https.
        program: the name of what runs.
        worker: which process of it.
    """

    def __init__(self, endpoint: str, program: str, worker: int) -> None:
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_SEND_SECONDS
        )
        resource = Resource.create(
            {
                "service.name": program,
                "service.namespace": "modelyard",
                "service.version": installed("modelyard"),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                "modelyard.worker": worker,
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("modelyard")

    def begin(self, method: Method, above: Trace | None, request_id: str) -> Span:
        """
        As `services.chassis.observability.tracing.Spans` says.
        """
        attributes = {**_names(method.path), "modelyard.request_id": request_id}
        context = api.set_span_in_context(_remote(above)) if above is not None else None
        span = self._tracer.start_span(
            method.path.removeprefix("/"), context=context, kind=SpanKind.SERVER, attributes=attributes
        )
        return _OtlpSpan(self._tracer, span, server=True)

    def close(self) -> None:
        """
        Send what waits. Blocks.
        """
        self._provider.shutdown()

    def give_up(self) -> None:
        """
        Send no more, so that `close` ends.
        """
        self._exporter.shutdown()


class _OtlpSpan:
    __slots__ = ("_server", "_span", "_tracer", "trace")

    def __init__(self, tracer: api.Tracer, span: api.Span, *, server: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._server = server
        self.trace = _place(span.get_span_context())

    def below(self, path: str) -> Span:
        span = self._tracer.start_span(
            path.removeprefix("/"),
            context=api.set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes=_names(path),
        )
        return _OtlpSpan(self._tracer, span, server=False)

    def end(self, code: grpc.StatusCode) -> None:
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code in _FAILURES if self._server else code is not grpc.StatusCode.OK:
            self._span.set_attribute("error.type", code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _names(path: str) -> dict[str, str]:
    service, _, name = path.removeprefix("/").partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _remote(place: Trace) -> api.Span:
    return api.NonRecordingSpan(
        SpanContext(
            int(place.trace_id, 16),
            int(place.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(place.flags),
            trace_state=TraceState.from_header([place.state]),
        )
    )


def _place(context: SpanContext) -> Trace:
    return Trace(
        format(context.trace_id, "032x"),
        format(context.span_id, "016x"),
        int(context.trace_flags),
        context.trace_state.to_header(),
    )
