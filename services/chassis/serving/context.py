"""
What a servicer is given beside its request: the part of `grpc.aio.ServicerContext` that both hosts offer.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, Protocol

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Context(Protocol):
    """
    One call, as its handler sees it. `grpc.aio.ServicerContext` is one; the Envoy host has its own.

    Servicers raise `services.chassis.errors` and never call `abort`, `set_code` or `set_details` (docs/adr/0007).
    """

    def invocation_metadata(self) -> Metadata | None:
        """
        What the client sent, in order, keys in lower case; values of keys that end in `-bin` are bytes.
        """

    # Any, because the stubs of grpc give the two classes that generated servicers accept as one type, and one of
    # them is not a coroutine. It is awaited.
    def send_initial_metadata(self, initial_metadata: Metadata, /) -> Any:
        """
        Send the response's headers now, with *initial_metadata*, instead of with the first message. Once per call.
        """

    def set_trailing_metadata(self, trailing_metadata: Metadata, /) -> None:
        """
        What goes out with the status, whether it is OK or an error. Replaces what was set before.
        """

    def trailing_metadata(self) -> Sequence[Any]:
        """
        What was set last.
        """

    def abort(self, code: grpc.StatusCode, details: str, /) -> Coroutine[Any, Any, NoReturn]:
        """
        End the call with an error status and the trailing metadata set so far.

        Raises:
            grpc.aio.AbortError: always; it has to reach the host.
        """

    def set_code(self, code: grpc.StatusCode, /) -> None:
        """
        The status that the call ends with when its handler returns.
        """

    def set_details(self, details: str, /) -> None:
        """
        The message that goes with the status.
        """

    def code(self) -> Any:
        """
        The status so far, in whatever form the host keeps it: read it with `status_of`.
        """

    def details(self) -> Any:
        """
        The status's message so far.
        """

    def set_compression(self, compression: grpc.Compression, /) -> None:
        """
        Compress what is sent from here on, if the client accepts it. Before the first message.
        """

    def peer(self) -> str:
        """
        The client's address: "ipv4:127.0.0.1:41234".
        """

    def time_remaining(self) -> float | None:
        """
        Seconds until the client's deadline, never negative; None (or infinite) without one.
        """

    def cancelled(self) -> bool:
        """
        The client went away or its deadline has passed.
        """

    def done(self) -> bool:
        """
        The call has ended.
        """

    # Any, because the stubs want a class of their own, which no function is. It is a Callable[[Context], None].
    def add_done_callback(self, callback: Any, /) -> None:
        """
        Call *callback* with the context when the call has ended, however it ended.
        """


def status_of(context: Context) -> grpc.StatusCode:
    """
    The status that the call would end with now: OK unless something set another one.

    The hosts keep it as None, a number or a `grpc.StatusCode`.
    """
    code = context.code()
    if code is None:
        return grpc.StatusCode.OK
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(int(code), grpc.StatusCode.UNKNOWN)


def values_of(context: Context, name: str) -> list[str | bytes]:
    """
    All that the client sent under *name*, in order. On the Envoy host without decoding everything else that it sent.
    """
    looked_up: Any = getattr(context, "values_of", None)
    if looked_up is not None:
        found: list[str | bytes] = looked_up(name)
        return found
    return [value for key, value in context.invocation_metadata() or () if key == name]


def fit(value: str | bytes, most: int) -> str | None:
    """
    *value* if it may be logged and echoed, as trailers hold printable ASCII only; else None.
    """
    good = isinstance(value, str) and 0 < len(value) <= most and value.isascii() and value.isprintable()
    return str(value) if good else None
