"""
One call on the Envoy host: the context that its handler sees, and the response as it goes out over ASGI.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from services.chassis.context import Metadata
from services.chassis.hosts.framing import ACCEPTED, IDENTITY, agreed, frame
from services.chassis.hosts.headers import Headers, from_metadata, status_headers, to_metadata

if TYPE_CHECKING:
    from services.chassis.hosts.pulse import Pulse

_log = logging.getLogger(__name__)

Scope = dict[str, Any]
Event = dict[str, Any]
# Futures of the loop, except at the end of a response, where pyvoy hands out an awaitable that is done already.
Receive = Callable[[], "asyncio.Future[Event]"]
Send = Callable[[Event], Awaitable[None]]

_OK = grpc.StatusCode.OK
_CONTENT_TYPE = (b"content-type", b"application/grpc")
# Asked for by the specification where an encoding is refused; it does no harm in other errors.
_ACCEPT_ENCODING = (b"grpc-accept-encoding", ACCEPTED)
_PLAIN_START: Event = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_CONTENT_TYPE],
    "trailers": True,
}
_OK_STATUS = (b"grpc-status", b"0")
_LAST_BODY: Event = {"type": "http.response.body", "body": b""}

# Bytes handed to Envoy before the handler waits until they are taken. Waiting for each small message would cost a
# round trip between two threads; this many may sit in memory per call when the client does not read.
_UNACKNOWLEDGED = 65536


class Call:
    """
    A call in progress; to its handler it is the `Context`.

    `send` of pyvoy does its work when it is called, not when it is awaited; so a response can be ended from a timer.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        send: of ASGI.
        most: bytes that a message may have.
    """

    __slots__ = (
        "_aborted",
        "_accepts",
        "_callbacks",
        "_code",
        "_compression",
        "_deadline",
        "_details",
        "_encoding",
        "_gone",
        "_initial",
        "_metadata",
        "_most",
        "_scope",
        "_send",
        "_started",
        "_task",
        "_timer",
        "_trailing",
        "_unacknowledged",
        "closed",
        "probing",
        "receive",
        "request_ended",
        "running",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self.receive = receive
        self.closed = False  # nothing may be sent any more
        self._aborted = False
        self.request_ended = False  # the client has sent all that the handler will read
        self.running = False  # the handler runs, or waits for something that may be cancelled
        self.probing = False
        self._scope = scope
        self._send = send
        self._most = most
        self._metadata: Metadata | None = None
        self._initial: Metadata = ()
        self._trailing: Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._compression: grpc.Compression | None = None
        self._accepts: bytes | None = None
        self._encoding = IDENTITY
        self._deadline: float | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._started = False
        self._gone = False
        self._unacknowledged = 0

    # What the handler sees: services.chassis.context.Context.

    def invocation_metadata(self) -> Metadata:
        if self._metadata is None:
            self._metadata = to_metadata(self._scope["headers"])
        return self._metadata

    async def send_initial_metadata(self, initial_metadata: Metadata, /) -> None:
        if self._started or self._initial:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        from_metadata(initial_metadata)  # raises here, where the handler can see it
        self._initial = tuple(initial_metadata)
        self._start()
        await self._handed_over(b"")

    def set_trailing_metadata(self, trailing_metadata: Metadata, /) -> None:
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        if self._aborted:
            raise grpc.aio.UsageError("Abort already called!")
        self._aborted = True
        # As in grpcio: an abort is an error, whatever it says.
        self._code = grpc.StatusCode.UNKNOWN if code is _OK else code
        self._details = details or self._details
        self._trailing = tuple(trailing_metadata) or self._trailing
        raise grpc.aio.AbortError("Locally aborted.")

    def set_code(self, code: grpc.StatusCode, /) -> None:
        self._code = code

    def set_details(self, details: str, /) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression, /) -> None:
        if self._started:
            raise grpc.aio.UsageError("Compression cannot change once initial metadata is sent")
        self._compression = compression

    def peer(self) -> str:
        client = self._scope.get("client")
        if client is None:
            return "unknown:"
        host, port = client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)

    def cancelled(self) -> bool:
        return self._gone

    def done(self) -> bool:
        return self.closed

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None:
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    # What the adapter does with it.

    def begin(self, timeout: float | None, accepts: bytes | None, pulse: Pulse) -> None:
        """
        Start the clock. In the task that runs the handler.

        Args:
            timeout: seconds that the client gives.
            accepts: its `grpc-accept-encoding`.
            pulse: notices when the deadline passes or the client goes away.
        """
        self._accepts = accepts
        self._task = asyncio.current_task()
        if timeout is not None:
            self._deadline = pulse.time() + timeout
        pulse.add(self, timeout)

    @property
    def failed(self) -> bool:
        """
        The handler has set a status that is not OK.
        """
        return self._code is not None and self._code is not _OK

    def answer(self, message: bytes) -> None:
        """
        The one response of a call that has ended well.
        """
        if self.closed:
            return
        if not self._started:
            self._start(message)
        else:
            self._send({"type": "http.response.body", "body": frame(message, self._most, self._encoding)})
        self._end_with_trailers()

    async def write(self, message: bytes) -> None:
        """
        One of several responses. Waits when the client reads more slowly than the handler writes.

        Raises:
            CancelledError: the client is gone, or its deadline has passed.
        """
        if self.closed:
            raise asyncio.CancelledError
        if not self._started:
            self._start()
        await self._handed_over(frame(message, self._most, self._encoding))

    def finish(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """
        End the call with *code*, or with the status that the handler has set.
        """
        if self.closed:
            return
        if code is not None:
            self._code = code
            self._details = details
        if self._started:
            self._send(_LAST_BODY)
            self._end_with_trailers()
            return
        self.closed = True
        headers = [_CONTENT_TYPE, _ACCEPT_ENCODING, *from_metadata(self._initial), *self._trailers()]
        self._send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": False})
        self._send(_LAST_BODY)

    def expire(self) -> None:
        """
        The deadline has passed.
        """
        self._stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def shut(self) -> None:
        """
        The server stops and cannot wait for this call.
        """
        self._stop(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    def lost(self) -> None:
        """
        The client has cancelled the call or gone away.
        """
        if not self.closed:
            self.closed = self._gone = True
            self._cancel()

    def settle(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        The call takes long enough to be worth a timer of its own.
        """
        if self._deadline is not None and self._timer is None:
            self._timer = loop.call_at(self._deadline, self.expire)

    def end(self) -> None:
        """
        The handler has returned, and nothing more will happen.
        """
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for callback in self._callbacks or ():
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - a callback is the handler's code; the other callbacks still have to run
                _log.exception("a done callback failed")

    def _stop(self, code: grpc.StatusCode, details: str) -> None:
        if self.closed:
            return
        self._gone = True
        self.finish(code, details)
        self._cancel()

    def _cancel(self) -> None:
        # While a unary request is still coming in, the task waits for pyvoy's future, which must not be cancelled
        # (pyvoy sets its result all the same); the end of the stream wakes it.
        if self._task is not None and self.running:
            self._task.cancel()

    def _start(self, message: bytes | None = None) -> None:
        if self._compression is None and not self._initial:
            start = _PLAIN_START
        else:
            self._encoding = agreed(self._compression, self._accepts)
            headers: Headers = [_CONTENT_TYPE, *from_metadata(self._initial)]
            if self._encoding != IDENTITY:
                headers.append((b"grpc-encoding", self._encoding.encode()))
            start = {"type": "http.response.start", "status": 200, "headers": headers, "trailers": True}
        body = None if message is None else frame(message, self._most, self._encoding)
        self._started = True
        self._send(start)
        if body is not None:
            self._send({"type": "http.response.body", "body": body})

    def _end_with_trailers(self) -> None:
        self.closed = True
        self._send({"type": "http.response.trailers", "headers": self._trailers()})

    def _trailers(self) -> Headers:
        code = self._code
        try:
            metadata = from_metadata(self._trailing) if self._trailing else []
        except ValueError as error:
            _log.error("the trailing metadata of %s cannot be sent: %s", self._scope["path"], error)
            return status_headers(grpc.StatusCode.INTERNAL, str(error))
        if not self.failed or code is None:
            return [_OK_STATUS, *metadata]
        return status_headers(code, self._details) + metadata

    async def _handed_over(self, body: bytes) -> None:
        sent = self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._unacknowledged += len(body)
        try:
            if not isinstance(sent, asyncio.Future):
                await sent
            elif body and self._unacknowledged < _UNACKNOWLEDGED:
                sent.add_done_callback(_seen)
            else:
                self._unacknowledged = 0
                # Shielded, because pyvoy sets the future's result even if it was cancelled.
                await asyncio.shield(sent)
        except OSError:  # the client is gone
            # Raised rather than asked of the task: a task that cancels itself and then returns is cancelled without a
            # traceback, which pyvoy cannot stand.
            self.closed = self._gone = True
            raise asyncio.CancelledError from None


def _seen(sent: asyncio.Future[None]) -> None:
    # The client may be gone before this was sent; the next wait or the pulse says so.
    sent.exception()
