"""
A gRPC server that records the metadata and deadlines of calls, and returns configured responses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass
class Probe:
    """
    Args:
        target: host:port of the server.
        calls: method, metadata and seconds until the deadline (None without one) of each call.
        failures: statuses of the next calls; later calls succeed.
        details: serialized google.rpc.Status of the failures.
        revision: value of the trailer x-revision, unless 0.
    """

    target: str = ""
    calls: list[tuple[str, dict[str, str], float | None]] = field(default_factory=list)
    failures: deque[grpc.StatusCode] = field(default_factory=deque)
    details: bytes = b""
    revision: int = 0

    def service(self, details: Any) -> Any:
        """
        The handler of any method: it returns empty messages.
        """
        method = details.method
        stream_in = method.endswith(("/Upload", "/ImportModels"))
        stream_out = method.endswith(("/Download", "/WatchChanges", "/ImportModels"))

        def answer(_request: Any, context: Any) -> bytes:
            remaining = context.time_remaining()
            metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
            self.calls.append((method, metadata, None if remaining is None or remaining > 1e6 else remaining))
            if self.failures:
                if self.details:
                    context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
                context.abort(self.failures.popleft(), "as told")
            if self.revision:
                context.set_trailing_metadata((("x-revision", str(self.revision)),))
            return b""

        def answers(request: Any, context: Any) -> Iterator[bytes]:
            yield answer(request, context)

        if stream_in:
            make = grpc.stream_stream_rpc_method_handler if stream_out else grpc.stream_unary_rpc_method_handler
        else:
            make = grpc.unary_stream_rpc_method_handler if stream_out else grpc.unary_unary_rpc_method_handler
        return make(answers if stream_out else answer)


@contextmanager
def probing() -> Iterator[Probe]:
    """
    A running probe.
    """
    probe = Probe()

    class Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
        def service(self, handler_call_details: Any) -> Any:
            return probe.service(handler_call_details)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    probe.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield probe
    finally:
        server.stop(None).wait()
