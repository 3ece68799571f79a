"""
The grpcio host: `grpc.aio.server`. The reference for behaviour, and the fallback where the Envoy host cannot run.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from services.chassis.calls import Handler, Kind, behaviour_of, kind_of
from services.chassis.hosts.headers import MOST_METADATA
from services.chassis.settings import CommonSettings


class GrpcioHost:
    """
    Serves handlers with grpcio.

    Args:
        handlers: by path.
        settings: where to listen, and how large a message may be.
    """

    def __init__(self, handlers: Mapping[str, Handler], settings: CommonSettings) -> None:
        self._listen = settings.listen
        most = settings.max_message_bytes
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                # One limit in place of two, between which grpcio refuses calls at random.
                ("grpc.max_metadata_size", MOST_METADATA),
                ("grpc.absolute_max_metadata_size", MOST_METADATA),
                # A taken port has to be an error, not a share of somebody else's calls.
                ("grpc.so_reuseport", 0),
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
            self._server.add_insecure_port(str(self._listen))
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


def _plain(handler: Handler) -> Handler:
    """
    *handler* in the only forms that grpcio takes for asynchronous: coroutine functions and async generator functions.
    """
    behaviour = behaviour_of(handler)
    kind = kind_of(handler)
    if kind.responses_stream:
        if inspect.isasyncgenfunction(behaviour):
            return handler

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in behaviour(request, context):
                yield response

        make = (
            grpc.stream_stream_rpc_method_handler
            if kind is Kind.STREAM_STREAM
            else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)
    if inspect.iscoroutinefunction(behaviour):
        return handler

    async def unary(request: Any, context: Any) -> Any:
        return await behaviour(request, context)

    make_unary = (
        grpc.stream_unary_rpc_method_handler if kind is Kind.STREAM_UNARY else grpc.unary_unary_rpc_method_handler
    )
    return make_unary(unary, handler.request_deserializer, handler.response_serializer)
