"""
An OpenTelemetry collector that keeps what it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

SERVER, CLIENT = 2, 3  # kinds of spans


@dataclass(frozen=True, slots=True)
class Found:
    """
    One span.
    """

    program: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    failed: bool
    attributes: dict[str, str | int]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """
    Keeps the spans.

    Attributes:
        spans: in the order in which they came.
        endpoint: for MODELYARD_OTLP_ENDPOINT.
    """

    def __init__(self) -> None:
        self.spans: list[Found] = []
        self.endpoint = ""

    def Export(self, request: pb.ExportTraceServiceRequest, _context: Any) -> pb.ExportTraceServiceResponse:
        """
        Take spans.
        """
        for part in request.resource_spans:
            program = str(_values(part.resource.attributes)["service.name"])
            for scope in part.scope_spans:
                self.spans += [_found(program, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Found]:
        """
        The spans of a trace.
        """
        return [span for span in list(self.spans) if span.trace_id == trace_id]


@contextmanager
def collecting() -> Iterator[Collector]:
    """
    A collector that serves on a free port of loopback.
    """
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _found(program: str, span: Any) -> Found:
    return Found(
        program,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == 2,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, str | int]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
