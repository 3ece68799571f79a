"""
The interceptor of the threaded client: metadata, deadline and revision of every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc

from modelyard._channel import Session, check_request


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """
    Adds metadata and deadline to each call, and records the revision of each response.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """
        A unary call: the only kind with a default deadline.
        """
        check_request(_method(details), request)
        timeout = self._session.deadline if details.timeout is None else details.timeout
        return self._call(continuation, details, request, timeout)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """
        A stream of responses.
        """
        check_request(_method(details), request)
        return self._call(continuation, details, request, details.timeout)

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        """
        A stream of requests.
        """
        return self._call(continuation, details, requests, details.timeout)

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        """
        Streams in both directions.
        """
        return self._call(continuation, details, requests, details.timeout)

    def _call(self, continuation: Callable[..., Any], details: Any, request: Any, timeout: float | None) -> Any:
        method = _method(details)
        metadata = self._session.metadata(method, details.metadata)
        wait, compression = details.wait_for_ready, details.compression
        call = continuation(_Details(method, timeout, metadata, details.credentials, wait, compression), request)
        call.add_done_callback(lambda done: self._session.note(method, done.trailing_metadata()))
        return call


def _method(details: Any) -> str:
    return details.method if isinstance(details.method, str) else str(details.method, "utf-8")
