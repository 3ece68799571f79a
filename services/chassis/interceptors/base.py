"""
The one wrapper that lets an interceptor be written once for all four kinds of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context, status_of


class Observer(Protocol):
    """
    What an interceptor does round the calls of one method. Whatever `begin` returns is handed to the other two.

    These are plain methods, not a context manager: a call takes some 50 µs in the Envoy host, and each interceptor
    may cost it a few hundred nanoseconds.
    """

    def begin(self, context: Context, /) -> Any:
        """
        The call starts. An exception from here ends it.
        """

    def end(self, context: Context, state: Any, /) -> None:
        """
        The handler has answered (with a status that it may have set itself, see `status_of`).
        """

    async def fail(self, context: Context, state: Any, error: BaseException, /) -> None:
        """
        The handler raised *error*, or was cancelled. It goes on outwards unless this raises another in its place.
        """


class CallInterceptor:
    """
    Something done round every call, of whatever kind.
    """

    def observe(self, method: Method) -> Observer:
        """
        The observer of the calls of *method*: asked for once per method, so all that can be looked up, is, here.
        """
        raise NotImplementedError

    def around(self, method: Method, proceed: Any) -> Any:
        """
        A behaviour of *method*'s kind that calls *proceed* under observation.
        """
        wrap: Callable[[Observer, Any], Any] = _round_stream if method.kind.responses_stream else _round_unary
        return wrap(self.observe(method), proceed)


def _round_unary(
    observer: Observer, proceed: Callable[[Any, Context], Awaitable[Any]]
) -> Callable[[Any, Context], Awaitable[Any]]:
    begin, end, fail = observer.begin, observer.end, observer.fail

    async def call(request: Any, context: Context) -> Any:
        state = begin(context)
        try:
            response = await proceed(request, context)
        except BaseException as error:
            await fail(context, state, error)
            raise
        end(context, state)
        return response

    return call


def _round_stream(
    observer: Observer, proceed: Callable[[Any, Context], AsyncGenerator[Any, None]]
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    begin, end, fail = observer.begin, observer.end, observer.fail

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        state = begin(context)
        try:
            # A host that stops early closes the outermost generator only: without this, the servicer's `finally`
            # would wait for the garbage collector.
            async with aclosing(proceed(request, context)) as responses:
                async for response in responses:
                    yield response
        except BaseException as error:
            await fail(context, state, error)
            raise
        end(context, state)

    return call


def outcome(context: Context, error: BaseException) -> grpc.StatusCode:
    """
    The status with which a call that ended in *error* has ended, seen from outside the error interceptor.
    """
    if isinstance(error, grpc.aio.AbortError):
        return status_of(context)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # Cancelled by the host: because the client went away, or because its deadline has passed.
        return grpc.StatusCode.DEADLINE_EXCEEDED if context.time_remaining() == 0 else grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN
