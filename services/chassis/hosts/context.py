"""
The context that a handler sees on the Envoy host: `services.chassis.serving.context.Context`, kept in plain attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from services.chassis.hosts.framing import IDENTITY
from services.chassis.hosts.headers import from_metadata, to_metadata
from services.chassis.serving.context import Metadata

Scope = dict[str, Any]
Event = dict[str, Any]
# Futures of the loop, except at the end of a response, where pyvoy hands out an awaitable that is done already.
Receive = Callable[[], "asyncio.Future[Event]"]
Send = Callable[[Event], Awaitable[None]]


class CallContext:
    """
    The state of a call that its client and its handler have set.

    Args:
        scope: of ASGI.
    """

    __slots__ = (
        "_aborted",
        "_callbacks",
        "_code",
        "_compression",
        "_deadline",
        "_details",
        "_encoding",
        "_gone",
        "_initial",
        "_metadata",
        "_scope",
        "_started",
        "_trailing",
        "closed",
    )

    def __init__(self, scope: Scope) -> None:
        self.closed = False  # nothing may be sent any more
        self._scope = scope
        self._metadata: Metadata | None = None
        self._initial: Metadata = ()
        self._trailing: Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._aborted = False
        self._compression: grpc.Compression | None = None
        self._encoding = IDENTITY
        self._deadline: float | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._started = False  # the response's headers are on their way
        self._gone = False

    @property
    def failed(self) -> bool:
        """
        The handler has set a status that is not OK.
        """
        return self._code is not None and self._code is not grpc.StatusCode.OK

    def invocation_metadata(self) -> Metadata:
        """
        See `Context`, here and below.
        """
        if self._metadata is None:
            self._metadata = to_metadata(self._scope["headers"])
        return self._metadata

    def values_of(self, name: str) -> list[str]:
        """
        The values of the header *name*, which must not be binary, without decoding the other headers.
        """
        wanted = name.encode("ascii")
        return [value.decode("latin-1") for key, value in self._scope["headers"] if key == wanted]

    async def send_initial_metadata(self, initial_metadata: Metadata, /) -> None:
        """
        Raises:
            ValueError: a key or a value cannot be sent.
            grpc.aio.UsageError: it is sent already.
        """
        if self._started:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        from_metadata(initial_metadata)  # raises here, where the handler can see it
        self._initial = tuple(initial_metadata)
        self._start()

    def set_trailing_metadata(self, trailing_metadata: Metadata, /) -> None:
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """
        Raises:
            grpc.aio.AbortError: always.
        """
        if self._aborted:
            raise grpc.aio.UsageError("Abort already called!")
        self._aborted = True
        # As in grpcio: an abort is an error, whatever it says.
        self._code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
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
        """
        Raises:
            grpc.aio.UsageError: the headers, which name the compression, are sent already.
        """
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

    def _start(self) -> None:
        """
        Send the response's headers.
        """
        raise NotImplementedError
