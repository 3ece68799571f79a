"""
gRPC over ASGI: finds the handler of a request, runs it, and answers with what it returns or raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.hosts.call import Call
from services.chassis.hosts.call_watcher import CallWatcher
from services.chassis.hosts.context import CallContext, Receive, Scope, Send
from services.chassis.hosts.framing import StatusError, Unframer, encoding_of
from services.chassis.hosts.headers import ARRIVAL, check_codec, check_size, timeout_seconds, waited
from services.chassis.hosts.requests import Deserializer, Requests, deserialized, read_one
from services.chassis.interceptors.call_context import current_call
from services.chassis.observability.call_recorder import Recorder, Recorders
from services.chassis.serving.calls import Handler, Kind, behaviour_of, kind_of

_log = logging.getLogger(__name__)

_GRPC = b"application/grpc"


class Route:
    """
    A handler with everything that is the same for all of its calls.

    Args:
        handler: of one method.
        recorder: of that method.
    """

    __slots__ = ("behaviour", "deserialize", "recorder", "serialize", "serve")

    def __init__(self, handler: Handler, recorder: Recorder) -> None:
        self.recorder = recorder
        self.behaviour = behaviour_of(handler)
        self.deserialize: Deserializer | None = handler.request_deserializer
        self.serialize: Callable[[Any], bytes] = handler.response_serializer or bytes
        self.serve: Callable[[Route, Call, str, int], Awaitable[None]] = _SERVERS[kind_of(handler)]


class GrpcApp:
    """
    The ASGI application for the calls of one process.

    Args:
        handlers: by path, "/package.Service/Method".
        most: maximum size of a message in bytes.
        pulse: watches the calls in progress.
        recorders: count and log every request.
    """

    def __init__(self, handlers: Mapping[str, Handler], most: int, pulse: CallWatcher, recorders: Recorders) -> None:
        self._routes = {path.encode("ascii"): Route(handler, recorders.at(path)) for path, handler in handlers.items()}
        self._unknown = recorders.unknown
        self._most = most
        self._pulse = pulse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request.
        """
        headers = dict(scope["headers"])
        arrived = time.perf_counter() - waited(headers.get(ARRIVAL))
        # Not decoded: the gateway's rules match paths, and another spelling must not bypass them.
        route = None if scope["query_string"] else self._routes.get(scope["raw_path"])
        recorder = self._unknown if route is None else route.recorder
        recorder.begin()
        if scope["method"] != "POST" or not _is_grpc(headers.get(b"content-type", b"")):
            refuse(scope, send)
            # So clients of gRPC understand the statuses of HTTP that this is answered with.
            code, seconds = grpc.StatusCode.UNKNOWN, time.perf_counter() - arrived
            recorder.end(code, seconds, CallContext(scope), None, "this is not gRPC")
            return
        call = Call(scope, receive, send, self._most)
        refused = ""
        try:
            check_size(scope["headers"])
            check_codec(headers[b"content-type"])
            await self._serve(call, route, headers)
        except grpc.aio.AbortError:
            call.finish()
        except StatusError as error:
            call.finish(error.code, error.details)
            refused = error.details
        except asyncio.CancelledError:
            # The deadline, the client or the end of the process: whoever cancelled has closed the call, unless it
            # was the handler itself.
            call.finish(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception as error:  # noqa: BLE001 - as grpcio answers what no interceptor has translated
            _log.exception("%s failed", scope["path"])
            call.finish(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")
        finally:
            call.end()
            recorder.end(call.status, call.over - arrived, call, current_call(), refused or call.refused)

    async def _serve(self, call: Call, route: Route | None, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"te") != b"trailers":
            # pyvoy would send none, and the client would never learn how its call has ended.
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, 'the header "te: trailers" is missing')
        timeout = None
        if (header := headers.get(b"grpc-timeout")) is not None:
            timeout = timeout_seconds(header)
            if timeout is None:
                raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"bad grpc-timeout {header.decode('latin-1')!r}")
        call.begin(timeout, headers.get(b"grpc-accept-encoding"), self._pulse)
        if route is None:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        encoding = encoding_of(headers.get(b"grpc-encoding"))
        await route.serve(route, call, encoding, self._most)


async def _unary_unary(route: Route, call: Call, encoding: str, most: int) -> None:
    message = await read_one(call, encoding, most)
    if message is None or call.closed:
        return
    request = deserialized(route.deserialize, message)
    call.running = True
    response = await route.behaviour(request, call)
    _answer(route, call, response)


async def _unary_stream(route: Route, call: Call, encoding: str, most: int) -> None:
    message = await read_one(call, encoding, most)
    if message is None or call.closed:
        return
    request = deserialized(route.deserialize, message)
    call.running = True
    await _stream(route, call, request)


async def _stream_unary(route: Route, call: Call, encoding: str, most: int) -> None:
    call.running = True
    response = await route.behaviour(Requests(call, Unframer(encoding, most), route.deserialize), call)
    _answer(route, call, response)


async def _stream_stream(route: Route, call: Call, encoding: str, most: int) -> None:
    call.running = True
    await _stream(route, call, Requests(call, Unframer(encoding, most), route.deserialize))


async def _stream(route: Route, call: Call, request: Any) -> None:
    serialize = route.serialize
    async with aclosing(route.behaviour(request, call)) as responses:
        async for response in responses:
            await call.write(serialize(response))
    call.finish()


def _answer(route: Route, call: Call, response: Any) -> None:
    if call.failed:
        call.finish()  # a status that is not OK goes out without a message, which may not even exist
    else:
        call.answer(route.serialize(response))


_SERVERS: dict[Kind, Callable[[Route, Call, str, int], Awaitable[None]]] = {
    Kind.UNARY_UNARY: _unary_unary,
    Kind.UNARY_STREAM: _unary_stream,
    Kind.STREAM_UNARY: _stream_unary,
    Kind.STREAM_STREAM: _stream_stream,
}


def _is_grpc(content_type: bytes) -> bool:
    # application/grpc-web is another protocol; application/grpc+proto and application/grpc;charset=x are this one.
    return content_type == _GRPC or (content_type.startswith(_GRPC) and content_type[len(_GRPC) :][:1] in {b"+", b";"})


def refuse(scope: Scope, send: Send) -> None:
    """
    Respond to requests that are not gRPC, with the status codes that the specification requires.
    """
    status = 415 if scope["method"] == "POST" else 405
    headers = [(b"content-type", b"text/plain"), (b"allow", b"POST"), (b"accept", _GRPC)]
    send({"type": "http.response.start", "status": status, "headers": headers})
    send({"type": "http.response.body", "body": b"This port speaks gRPC.\n"})
