"""
The grpcio host: `grpc.aio.server`. The reference for behaviour, and the fallback where the Envoy host cannot run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.calls import Handler, Kind, behaviour_of, kind_of
from services.chassis.hosts.headers import MOST_METADATA
from services.chassis.hosts.requests import NO_MESSAGE, SECOND_MESSAGE, UNREADABLE
from services.chassis.settings import CommonSettings
from services.chassis.tls import Identity, server_credentials

_MOMENT = 0.002  # seconds


class GrpcioHost:
    """
    Serves handlers with grpcio.

    Args:
        handlers: by path.
        settings: where to listen, and how large a message may be.
        identity: of the service: only callers with a certificate of its authority are let in. None means plain text.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], settings: CommonSettings, identity: Identity | None = None
    ) -> None:
        self._listen = settings.listen
        # Held here, because grpcio's core calls it with every handshake.
        self._credentials = None if identity is None else server_credentials(identity)
        most, age = settings.max_message_bytes, round(settings.connection_age * 1000)
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                # One limit in place of two, between which grpcio refuses calls at random.
                ("grpc.max_metadata_size", MOST_METADATA),
                ("grpc.absolute_max_metadata_size", MOST_METADATA),
                # A taken port has to be an error, not a share of somebody else's calls.
                ("grpc.so_reuseport", 0),
                *([("grpc.max_connection_age_ms", age)] if age else []),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        for service, methods in _by_service(handlers).items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))

    async def start(self) -> None:
        """
        Listen and serve.

        Raises:
            OSError: the address is taken, or not one of this machine's.
        """
        try:
            if self._credentials is None:
                self._server.add_insecure_port(str(self._listen))
            else:
                self._server.add_secure_port(str(self._listen), self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: {error}") from None
        await self._server.start()

    async def drain(self, seconds: float) -> None:
        """
        Take no new calls, and let those in flight go on for at most *seconds*.
        """
        await self._server.stop(seconds)


def _by_service(handlers: Mapping[str, Handler]) -> dict[str, dict[str, Handler]]:
    found: dict[str, dict[str, Handler]] = {}
    for path, handler in handlers.items():
        _, service, name = path.split("/")
        found.setdefault(service, {})[name] = _plain(handler)
    return found


class _Unreadable:
    """
    Stands for a message that does not parse. grpcio would answer by itself, UNKNOWN, and log a traceback.
    """

    __slots__ = ("why",)

    def __init__(self, why: Exception) -> None:
        self.why = why


def _plain(handler: Handler) -> Handler:
    """
    *handler* in the only forms that grpcio takes for asynchronous: coroutine functions and async generator functions.

    All of them read a stream of requests, which over the wire is the same as one: where one is asked for, grpcio takes
    a request without any for one that was cancelled, and waits for ever; and it never looks whether there are two.
    """
    behaviour = behaviour_of(handler)
    kind = kind_of(handler)
    behaviour = _with_whole_requests(behaviour) if kind.requests_stream else _with_one_request(behaviour, kind)
    read = None if handler.request_deserializer is None else _reading(handler.request_deserializer)
    if kind.responses_stream:
        return grpc.stream_stream_rpc_method_handler(_stream(behaviour), read, handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(_unary(behaviour), read, handler.response_serializer)


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(message: bytes) -> Any:
        try:
            return deserialize(message)
        except Exception as error:  # noqa: BLE001 - what a deserializer raises is its own affair
            return _Unreadable(error)

    return read


def _stream(behaviour: Any) -> Any:
    if inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return serve


def _unary(behaviour: Any) -> Any:
    if inspect.iscoroutinefunction(behaviour):
        return behaviour

    async def serve(request: Any, context: Any) -> Any:
        return await behaviour(request, context)

    return serve


def _with_one_request(behaviour: Any, kind: Kind) -> Any:
    async def answer(requests: AsyncIterator[Any], context: Any) -> Any:
        return await behaviour(await _only(requests, context), context)

    async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async with aclosing(behaviour(await _only(requests, context), context)) as responses:
            async for response in responses:
                yield response

    return answers if kind.responses_stream else answer


async def _only(requests: AsyncIterator[Any], context: Any) -> Any:
    """
    The one message of a unary request. The call ends if there is none, or another, or if it does not parse.
    """
    found: list[Any] = []
    async for request in requests:
        if found:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, SECOND_MESSAGE)
        found.append(request)
    if not found:
        await asyncio.sleep(_MOMENT)  # as in _whole: it may have been cancelled
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
    if isinstance(found[0], _Unreadable):
        await _refuse(found[0], context)
    return found[0]


async def _refuse(request: _Unreadable, context: Any) -> None:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{UNREADABLE}: {request.why}")


def _with_whole_requests(behaviour: Any) -> Any:
    def serve(requests: AsyncIterator[Any], context: Any) -> Any:
        return behaviour(_whole(requests, context), context)

    return serve


async def _whole(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    """
    The messages of a stream, whose end is the client's own.

    When a client cancels, or sends what is no message, grpcio ends the iterator as if all had been sent, and cancels
    the handler a moment later: half an upload would look like a whole one. So wait for that moment at the end.
    """
    async for request in requests:
        if isinstance(request, _Unreadable):
            await _refuse(request, context)
        yield request
    await asyncio.sleep(_MOMENT)
