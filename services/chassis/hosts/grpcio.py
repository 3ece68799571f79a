"""
The grpcio host: `grpc.aio.server`. The reference for behaviour, and the fallback where the Envoy host cannot run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc

from services.chassis.access.callers import peer_of
from services.chassis.hosts.headers import MOST_METADATA
from services.chassis.hosts.requests import NO_MESSAGE, SECOND_MESSAGE, UNREADABLE
from services.chassis.interceptors.base import outcome
from services.chassis.interceptors.call_context import CurrentCall, current_call
from services.chassis.observability.call_recorder import Recorder, Recorders
from services.chassis.serving.calls import Handler, Kind, behaviour_of, kind_of
from services.chassis.serving.context import Context, status_of
from services.chassis.serving.tls import Identity, server_credentials
from services.chassis.settings import CommonSettings

_MOMENT = 0.002  # seconds
# Calls that have come in and have not begun.
_MOST_PENDING = 10_000

if TYPE_CHECKING:
    GenericHandler = grpc.GenericRpcHandler[Any, Any]
else:
    GenericHandler = grpc.GenericRpcHandler  # generic in the stubs only


class GrpcioHost:
    """
    Serves handlers with grpcio.

    Args:
        handlers: by path.
        settings: where to listen, and how large a message may be.
        recorders: count and log every call.
        identity: of the service: only callers with a certificate of its authority are let in. None means plain text.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        settings: CommonSettings,
        recorders: Recorders,
        identity: Identity | None = None,
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
        self._server.add_generic_rpc_handlers((Entrance(handlers, most, recorders),))

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


class Entrance(GenericHandler):
    """
    Finds the handler of a call. It is asked first of all, in the task that serves the call, for unknown methods too.

    Args:
        handlers: by path.
        most: bytes that a message may have, beyond which grpcio's core refuses to send it.
        recorders: count and log every call.
    """

    def __init__(self, handlers: Mapping[str, Handler], most: int, recorders: Recorders) -> None:
        self._found = {path: (_plain(handler, most), recorders.at(path)) for path, handler in handlers.items()}
        self._unknown = recorders.unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """
        The handler of a call, whose clock starts here; None if nobody serves that.
        """
        handler, recorder = self._found.get(handler_call_details.method, (None, self._unknown))
        arrival = Arrival(recorder)
        if handler is None:
            arrival.failed = grpc.StatusCode.UNIMPLEMENTED
        _arrival.set(arrival)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - grpcio gives each call one
        # It ends when the status is sent, or the call is given up.
        task.add_done_callback(arrival.end)
        return handler


class Arrival:
    """
    A call from when grpcio's core has handed it over. How long it waited in there is not known.

    Args:
        recorder: of its method.

    Attributes:
        failed: its outcome outside of its handler, which is what the client sees.
        code: what its handler ended with; None if it did not get so far. Its client has cancelled then, or its request
            was larger than it may be: core does not say which.
        context: of the call.
        call: as the interceptors know it.
        peer: where it comes from. To ask core for that once the call has failed is the end of the process.
    """

    __slots__ = ("_recorder", "_started", "call", "code", "context", "failed", "peer")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._started = time.perf_counter()
        self.failed: grpc.StatusCode | None = None
        self.code: grpc.StatusCode | None = None
        self.context: Context | None = None
        self.call: CurrentCall | None = None
        self.peer = ""
        recorder.begin()

    def begins(self, context: Context) -> None:
        """
        Its handler begins, perhaps after its end: a deadline may have passed meanwhile.
        """
        self.context, self.peer = context, peer_of(context)

    def end(self, _task: object) -> None:
        """
        The call has ended.
        """
        code = self.failed or self.code or grpc.StatusCode.CANCELLED
        refused = "" if self.failed is None else "outside of its handler"
        self._recorder.end(code, time.perf_counter() - self._started, self.context, self.call, refused, self.peer)


_arrival: ContextVar[Arrival] = ContextVar("modelyard_arrival")


class _Unreadable:
    """
    Stands for a message that does not parse. grpcio would answer by itself, UNKNOWN, and log a traceback.
    """

    __slots__ = ("why",)

    def __init__(self, why: Exception) -> None:
        self.why = why


def _plain(handler: Handler, most: int) -> Handler:
    """
    *handler* in the only forms that grpcio takes for asynchronous: coroutine functions and async generator functions.
    They record the outcome of each call.

    All of them read a stream of requests, which over the wire is the same as one: where one is asked for, grpcio takes
    a request without any for one that was cancelled, and waits for ever; and it never looks whether there are two.
    """
    behaviour = behaviour_of(handler)
    kind = kind_of(handler)
    behaviour = _with_whole_requests(behaviour) if kind.requests_stream else _with_one_request(behaviour, kind)
    read = _reading(handler.request_deserializer or bytes)
    write = _writing(handler.response_serializer or bytes, most)
    if kind.responses_stream:
        return grpc.stream_stream_rpc_method_handler(_stream(behaviour), read, write)
    return grpc.stream_unary_rpc_method_handler(_unary(behaviour), read, write)


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(message: bytes) -> Any:
        try:
            return deserialize(message)
        except Exception as error:  # noqa: BLE001 - what a deserializer raises is its own affair
            return _Unreadable(error)

    return read


def _writing(serialize: Callable[[Any], bytes], most: int) -> Callable[[Any], bytes]:
    def write(response: Any) -> bytes:
        try:
            message = serialize(response)
        except Exception:
            _arrival.get().failed = grpc.StatusCode.UNKNOWN
            raise
        if len(message) > most:
            _arrival.get().failed = grpc.StatusCode.RESOURCE_EXHAUSTED
        return message

    return write


def _stream(behaviour: Any) -> Any:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        arrival = _arrival.get()
        arrival.begins(context)
        try:
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response
            arrival.code = status_of(context)
        except BaseException as error:
            arrival.code = outcome(context, error)
            raise
        finally:
            arrival.call = current_call()

    return serve


def _unary(behaviour: Any) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        arrival = _arrival.get()
        arrival.begins(context)
        try:
            response = await behaviour(request, context)
            arrival.code = status_of(context)
        except BaseException as error:
            arrival.code = outcome(context, error)
            raise
        finally:
            arrival.call = current_call()
        return response

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
