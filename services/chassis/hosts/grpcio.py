"""
The grpcio host: `grpc.aio.server`. The reference for behaviour, and the fallback where the Envoy host cannot run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.calls import Handler, behaviour_of, kind_of, with_behaviour
from services.chassis.hosts.headers import MOST_METADATA
from services.chassis.settings import CommonSettings
from services.chassis.tls import Identity, server_credentials

_MOMENT = 0.002  # seconds
# Calls that have come in and have not begun.
_MOST_PENDING = 10_000


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
                # The same: what a burst brings waits for its turn, and is not cancelled at random.
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
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


def _plain(handler: Handler) -> Handler:
    """
    *handler* in the only forms that grpcio takes for asynchronous: coroutine functions and async generator functions.
    """
    behaviour = behaviour_of(handler)
    kind = kind_of(handler)
    if kind.requests_stream:
        behaviour = _with_whole_requests(behaviour)
    return with_behaviour(handler, _stream(behaviour) if kind.responses_stream else _unary(behaviour))


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


def _with_whole_requests(behaviour: Any) -> Any:
    def serve(requests: AsyncIterator[Any], context: Any) -> Any:
        return behaviour(_whole(requests), context)

    return serve


async def _whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """
    The messages of a stream, whose end is the client's own.

    When a client cancels, or sends what is no message, grpcio ends the iterator as if all had been sent, and cancels
    the handler a moment later: half an upload would look like a whole one. So wait for that moment at the end.
    """
    async for request in requests:
        yield request
    await asyncio.sleep(_MOMENT)
