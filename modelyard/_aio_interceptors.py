"""
The interceptors of the asyncio client: metadata, deadlines and revisions of every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from modelyard._channel import Session, check_request


def interceptors(session: Session) -> list[Any]:
    """
    The interceptors of a channel: grpc.aio requires one for each kind of call.
    """
    return [_UnaryUnary(session), _UnaryStream(session), _StreamUnary(session), _StreamStream(session)]


class _SessionInterceptor:
    def __init__(self, session: Session) -> None:
        self._session = session
        # The event loop holds tasks weakly.
        self._notes: set[asyncio.Task[None]] = set()

    async def _details(self, details: Any, timeout: float | None) -> grpc.aio.ClientCallDetails:
        method = _text(details.method)
        if self._session.due():
            found = await asyncio.to_thread(self._session.metadata, method, details.metadata)
        else:
            found = self._session.metadata(method, details.metadata)
        metadata = grpc.aio.Metadata(*found)
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=timeout,
            metadata=metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )

    async def _go(self, proceed: Callable[..., Any], details: Any, request: Any) -> Any:
        timeout = details.timeout
        if isinstance(self, _UnaryUnary) and timeout is None:
            timeout = self._session.deadline
        call = await proceed(await self._details(details, timeout), request)
        call.add_done_callback(lambda done: self._note(_text(details.method), done))
        return call

    def _note(self, method: str, call: Any) -> None:
        async def note() -> None:
            self._session.note(method, await call.trailing_metadata())

        task = asyncio.ensure_future(note())
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)


def _text(method: str | bytes) -> str:
    return method if isinstance(method, str) else method.decode()


class _UnaryUnary(_SessionInterceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        check_request(_text(client_call_details.method), request)
        call = await self._go(continuation, client_call_details, request)
        try:
            # To know the revision before the caller has the answer. It does not raise.
            await call.code()
        except asyncio.CancelledError:
            call.cancel()
            raise
        self._session.note(_text(client_call_details.method), await call.trailing_metadata())
        return call


class _UnaryStream(_SessionInterceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        check_request(_text(client_call_details.method), request)
        return await self._go(continuation, client_call_details, request)


class _StreamUnary(_SessionInterceptor, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._go(continuation, client_call_details, request_iterator)


class _StreamStream(_SessionInterceptor, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._go(continuation, client_call_details, request_iterator)
