"""
The sizes of messages. Calls themselves are counted by the hosts (`services.chassis.observability.call_recorder`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.chassis.observability.histograms import Histogram
from services.chassis.observability.metrics import MethodStats
from services.chassis.serving.calls import Handler, with_serializers


def measured(handler: Handler, stats: MethodStats) -> Handler:
    """
    *handler* with its messages counted and measured where they are bytes anyway: a message that is measured within the
    call would be serialised once more.
    """
    return with_serializers(
        handler,
        _deserializing(stats.received, handler.request_deserializer),
        _serializing(stats.sent, handler.response_serializer),
    )


def _deserializing(sizes: Histogram, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    observe = sizes.observe

    def plain(message: bytes) -> bytes:
        observe(len(message))
        return message

    def parse(message: bytes) -> Any:
        observe(len(message))
        return deserialize(message)  # type: ignore[misc] # used only when there is one

    return plain if deserialize is None else parse


def _serializing(sizes: Histogram, serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    observe = sizes.observe
    make: Callable[[Any], bytes] = serialize or bytes

    def write(response: Any) -> bytes:
        message = make(response)
        observe(len(message))
        return message

    return write
