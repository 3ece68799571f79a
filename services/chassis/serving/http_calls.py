"""
What every HTTP request gets, whatever application serves it: a request id, a span, its metrics and a log record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import grpc

from services.chassis.access.callers import Proxies
from services.chassis.access.tokens import Verifier
from services.chassis.interceptors.call_context import REQUEST_ID, CurrentCall, enter, named
from services.chassis.observability import tracing
from services.chassis.observability.http_metrics import HttpMetrics
from services.chassis.observability.tracing import Spans
from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.health import Health

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Where the gateway asks for readiness. No client can ask for it: the gateway has no route to it.
READY: Final = "/-/ready"
#: The key of the scope under which an application leaves the name of the route.
ROUTE: Final = "modelyard.route"
#: Requests that no route matches.
UNKNOWN: Final = "unknown"
_FAILED = 500
_CLIENT_CLOSED = 499


class HttpCalls:
    """
    An ASGI application around another one.

    Args:
        app: serves the requests. It leaves the name of a request's route in the scope (`ROUTE`).
        service: its name in logs and spans: "modelyard.doors".
        health: tells whether the process is ready.
        metrics: where to count.
        proxies: the trusted proxies, which may state the original caller.
        verifier: of tokens; None while access control is off.
        spans: makes spans, where they are exported.
        slow: seconds after which a request is logged as a warning.
    """

    def __init__(
        self,
        app: AsgiApp,
        service: str,
        health: Health,
        metrics: HttpMetrics,
        proxies: Proxies,
        verifier: Verifier | None = None,
        spans: Spans | None = None,
        slow: float = 0.5,
    ) -> None:
        self._app = app
        self._service = service
        self._health = health
        self._metrics = metrics
        self._proxies = proxies
        self._verifier = verifier
        self._spans = spans
        self._slow = slow
        # From the start, for who asks for it before the first request: the autoscaler.
        metrics.of(UNKNOWN, "GET")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == READY:
            await self._say_readiness(send)
            return
        began = time.perf_counter()
        verb = str(scope["method"])
        call = CurrentCall(Method("", self._service, verb, Kind.UNARY_UNARY), _Headers(scope), self._proxies)  # type: ignore[arg-type]  # what it reads of a context
        call.verifier = self._verifier
        enter(call)
        if self._spans is not None:
            above = tracing.received(call.context.invocation_metadata() or ())
            call.span = self._spans.begin(call.method, above, call.request_id)
        response = _Response(send, call.request_id)
        # Until the route is known.
        self._metrics.of(UNKNOWN, verb).started += 1
        status = _CLIENT_CLOSED
        try:
            await self._app(scope, receive, response)
            status = response.status or _FAILED
        except Exception:  # noqa: BLE001 - whatever an application raises, the client gets an answer
            status = _FAILED
            _log.exception("%s failed", scope["path"])
            await response.fail()
        finally:
            self._end(scope, call, response, status, time.perf_counter() - began)

    def _end(self, scope: Scope, call: CurrentCall, response: _Response, status: int, seconds: float) -> None:
        verb, route = str(scope["method"]), str(scope.get(ROUTE, UNKNOWN))
        self._metrics.of(UNKNOWN, verb).started -= 1
        stats = self._metrics.of(route, verb)
        stats.started += 1
        stats.statuses[status] = stats.statuses.get(status, 0) + 1
        stats.durations.observe(seconds)
        stats.sent += response.sent
        if call.span is not None:
            call.span.end(_CODES.get(status, grpc.StatusCode.OK if status < 400 else grpc.StatusCode.UNKNOWN))
        slow = seconds > self._slow and not response.streams
        level = logging.WARNING if slow or status >= _FAILED else logging.DEBUG
        if _log.isEnabledFor(level):
            fields = {
                "route": route,
                "method": verb,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "bytes": response.sent,
                "caller": call.caller,
                "client": call.client,
                **named(call),
            }
            _log.log(level, "%s %s %d in %.1f ms", verb, route, status, seconds * 1000, extra=fields)

    async def _say_readiness(self, send: Send) -> None:
        reason = self._health.not_ready()
        body = f"{reason or 'ok'}\n".encode()
        await send(
            {
                "type": "http.response.start",
                "status": 503 if reason else 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})


_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class _Response:
    """
    Sends a response, with its request id.

    Attributes:
        status: as sent; None before.
        sent: bytes of the body.
        streams: whether it came in several parts.
    """

    __slots__ = ("_request_id", "_send", "sent", "status", "streams")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self.status: int | None = None
        self.sent = 0
        self.streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), self._request_id)]
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            self.streams = self.streams or bool(message.get("more_body"))
        await self._send(message)

    async def fail(self) -> None:
        """
        Answer 500, unless the response has begun: then the connection is closed, so that nobody takes it for whole.
        """
        if self.status is not None:
            raise ConnectionAbortedError("the response could not be completed")
        body = b"internal error\n"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await self({"type": "http.response.start", "status": _FAILED, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class _Headers:
    """
    The headers of a request as those parts of a gRPC call that `CurrentCall` reads.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._scope["headers"])

    def values_of(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._scope["headers"] if key == wanted]

    def peer(self) -> str:
        client = self._scope.get("client")
        if not client:
            return "unix:"
        host, port = client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def done(self) -> bool:
        return False
