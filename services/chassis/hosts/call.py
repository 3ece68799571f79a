"""
One call on the Envoy host: the response as it goes out over ASGI, and how the call ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc

from services.chassis.hosts.context import CallContext, Event, Receive, Scope, Send
from services.chassis.hosts.framing import ACCEPTED, IDENTITY, StatusError, agreed, frame
from services.chassis.hosts.headers import Headers, from_metadata, status_headers

if TYPE_CHECKING:
    from services.chassis.hosts.call_watcher import CallWatcher

_log = logging.getLogger(__name__)

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

# Waiting for each message until Envoy has taken it would cost a round trip between two threads. So the handler waits
# after this many bytes, and then for the batch before; twice this may sit in memory when the client does not read.
_UNACKNOWLEDGED = 65536
_PER_MESSAGE = 512  # what a small message costs on its way, so that a batch is some hundred messages at most
# A message beyond this is a batch by itself, and waited for: two of 16 MiB, with their copies, would be too much.
_LARGE = 2 << 20


class Call(CallContext):
    """
    A call in progress, which is also its handler's context.

    `send` of pyvoy does its work when it is called, not when it is awaited; so a response can be ended from a timer.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        send: of ASGI.
        most: bytes that a message may have.
    """

    __slots__ = (
        "_accepts",
        "_before",
        "_most",
        "_send",
        "_task",
        "_timer",
        "_unacknowledged",
        "over",
        "probing",
        "receive",
        "refused",
        "request_ended",
        "running",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        super().__init__(scope)
        self.receive = receive
        self.request_ended = False  # the client has sent all that the handler will read
        self.running = False  # the handler runs, or waits for something that may be cancelled
        self.probing = False
        self.status = grpc.StatusCode.CANCELLED  # that the client has seen: this one if it was gone before any
        self.refused = ""  # what was wrong with what the client has sent within a stream
        self.over = 0.0  # by time.perf_counter(), when that was handed over
        self._send = send
        self._most = most
        self._accepts: bytes | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unacknowledged = 0
        self._before: asyncio.Future[None] | None = None

    def begin(self, timeout: float | None, accepts: bytes | None, pulse: CallWatcher) -> None:
        """
        Start the deadline. Call this in the task that runs the handler.

        Args:
            timeout: the client's timeout in seconds.
            accepts: its `grpc-accept-encoding`.
            pulse: notices when the deadline passes or the client disconnects.
        """
        self._accepts = accepts
        self._task = asyncio.current_task()
        if timeout is not None:
            self._deadline = pulse.time() + timeout
        pulse.add(self, timeout)

    def answer(self, message: bytes) -> None:
        """
        Send the single response of a successful call.
        """
        if self.closed:
            return
        if not self._started:
            self._choose_encoding()
        body = frame(message, self._most, self._encoding)  # raises before anything is sent
        if not self._started:
            self._send_start()
        self._send({"type": "http.response.body", "body": body})
        self._end_with_trailers()

    async def write(self, message: bytes) -> None:
        """
        Send one of several responses. Waits while the client reads more slowly than the handler writes.

        Raises:
            CancelledError: the client has disconnected, or the deadline has passed.
        """
        if self.closed:
            raise asyncio.CancelledError
        if not self._started:
            self._choose_encoding()
        body = frame(message, self._most, self._encoding)
        if not self._started:
            self._send_start()
        await self._handed_over(body)

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
        self.over = time.perf_counter()

    def refuse(self, error: StatusError) -> asyncio.CancelledError:
        """
        End the call because of an invalid message in the client's stream. Raise the result in the handler.

        Not *error* itself: the handler could catch it, and the interceptors would take it for a fault of the handler's.
        """
        self._gone = True
        self.refused = error.details
        self.finish(error.code, error.details)
        return asyncio.CancelledError(error.details)

    def expire(self) -> None:
        """
        The deadline has passed.
        """
        self._stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def shut(self) -> None:
        """
        The server shuts down and cannot wait for this call.
        """
        self._stop(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    def lost(self) -> None:
        """
        The client has cancelled the call or disconnected.
        """
        if not self.closed:
            self._leave()
            self._cancel()

    def settle(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Start a timer for the deadline: the call takes long enough to need one.
        """
        if self._deadline is not None and self._timer is None:
            self._timer = loop.call_at(self._deadline, self.expire)

    def end(self) -> None:
        """
        The handler has returned: run the callbacks and stop the timer.
        """
        if not self.closed:
            self._leave()
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

    def _start(self) -> None:
        self._choose_encoding()
        self._send_start()
        # pyvoy sends the headers with the first piece of the body. That may be nothing, and it need not be waited for.
        sent = self._send({"type": "http.response.body", "body": b"", "more_body": True})
        if isinstance(sent, asyncio.Future):
            sent.add_done_callback(_seen)

    def _choose_encoding(self) -> None:
        if self._compression is not None:
            self._encoding = agreed(self._compression, self._accepts)

    def _send_start(self) -> None:
        self._started = True
        if self._encoding == IDENTITY and not self._initial:
            self._send(_PLAIN_START)
            return
        headers: Headers = [_CONTENT_TYPE, *from_metadata(self._initial)]
        if self._encoding != IDENTITY:
            headers.append((b"grpc-encoding", self._encoding.encode()))
        self._send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})

    def _end_with_trailers(self) -> None:
        self.closed = True
        self._send({"type": "http.response.trailers", "headers": self._trailers()})
        self.over = time.perf_counter()

    def _leave(self) -> None:
        """
        The client has disconnected and receives nothing more. A client that waits for its deadline disconnects when it
        passes.
        """
        self.closed = self._gone = True
        self.over = time.perf_counter()
        if self.time_remaining() == 0:
            self.status = grpc.StatusCode.DEADLINE_EXCEEDED

    def _trailers(self) -> Headers:
        try:
            metadata = from_metadata(self._trailing) if self._trailing else []
        except ValueError as error:
            _log.error("the trailing metadata of %s cannot be sent: %s", self._scope["path"], error)
            self.status = grpc.StatusCode.INTERNAL
            return status_headers(grpc.StatusCode.INTERNAL, str(error))
        if self._code is None or not self.failed:
            self.status = grpc.StatusCode.OK
            return [_OK_STATUS, *metadata]
        self.status = self._code
        return status_headers(self._code, self._details) + metadata

    async def _handed_over(self, body: bytes) -> None:
        sent = self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._unacknowledged += len(body) + _PER_MESSAGE
        try:
            if not isinstance(sent, asyncio.Future):
                await sent
                return
            sent.add_done_callback(_seen)
            if self._unacknowledged < _UNACKNOWLEDGED:
                return
            before, self._before, self._unacknowledged = self._before, sent, 0
            awaited = sent if len(body) > _LARGE else before
            if awaited is not None:
                # Shielded, because pyvoy sets the future's result even if it was cancelled.
                await asyncio.shield(awaited)
        except OSError:  # the client is gone
            # Raised rather than asked of the task: a task that cancels itself and then returns is cancelled without a
            # traceback, which pyvoy cannot stand.
            self._leave()
            raise asyncio.CancelledError from None


def _seen(sent: asyncio.Future[None]) -> None:
    # The client may be gone before this was sent; the next wait or the pulse says so.
    sent.exception()
