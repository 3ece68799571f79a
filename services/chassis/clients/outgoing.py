"""
Metadata of calls to other services: the request id and trace context of the call in progress.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

import grpc

from services.chassis.interceptors.call_context import REQUEST_ID, current_call
from services.chassis.observability import tracing
from services.chassis.observability.tracing import Span

Headers = tuple[tuple[str, str], ...]


class outgoing:  # noqa: N801 - used as a function, like contextlib.suppress
    """
    Propagate the context of the call in progress to an outgoing call, which is made in the block with the metadata that
    this returns; end its span. Outside of calls, each outgoing call begins a trace.

    Args:
        path: of the RPC, "/modelyard.cdn.v1.AssetService/Pin".
    """

    __slots__ = ("_path", "_span")

    def __init__(self, path: str) -> None:
        self._path = path
        self._span: Span | None = None

    def __enter__(self) -> Headers:
        call = current_call()
        if call is None:
            return tracing.new().headers()
        if call.span is None:
            trace = call.trace.child()
        else:
            self._span = call.span.below(self._path)
            trace = self._span.trace
        return ((REQUEST_ID, call.request_id), *trace.headers())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.end(_code(error))


def _code(error: BaseException | None) -> grpc.StatusCode:
    if error is None:
        return grpc.StatusCode.OK
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code()
    return grpc.StatusCode.CANCELLED if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.UNKNOWN
