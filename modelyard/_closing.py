"""
A channel that may be closed while other threads make calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc


class ClosingChannel(grpc.Channel):
    """
    A channel whose calls raise ValueError once it is closed.

    An intercepted channel asks the channel below it for the method at every call, and gRPC registers the method without
    a look at whether that channel is closed: the process ends with SIGSEGV. Here each method is registered once, and
    never while the channel closes.

    Args:
        channel: a gRPC channel; closed with this one.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._closed = False
        self._methods: dict[tuple[str, str], Any] = {}

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """
        The callable of a unary method.
        """
        return self._callable("unary_unary", method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """
        The callable of a method with a stream of responses.
        """
        return self._callable("unary_stream", method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """
        The callable of a method with a stream of requests.
        """
        return self._callable("stream_unary", method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """
        The callable of a method with both streams.
        """
        return self._callable("stream_stream", method, args, kwargs)

    def _callable(self, kind: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            found = self._methods.get((kind, method))
            if found is None:
                found = self._methods[kind, method] = getattr(self._channel, kind)(method, *args, **kwargs)
            return found

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """
        Call *callback* with each change of the connectivity.
        """
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """
        End what `subscribe` began.
        """
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """
        Cancel all calls in progress, and release the connection.
        """
        with self._lock:
            self._closed = True
        self._channel.close()

    def __enter__(self) -> ClosingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
