"""
Where the two hosts differ, and why that is right, or no worse than it looks. Nothing else may differ.

A test that meets one of these asks for it by its name, so this page is the whole list. The Envoy host follows the
specification (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md); where grpcio does not, that is its own
core's doing, out of reach of the chassis. A client that speaks gRPC properly meets only the last two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Statuses by number, as they come over the wire.
OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 1, 2, 4, 8, 12, 13


@dataclass(frozen=True, slots=True)
class Difference:
    """
    What each host does.

    Args:
        envoy: on the Envoy host.
        grpcio: on grpcio.
        why: in a sentence or two.
    """

    envoy: Any
    grpcio: Any
    why: str

    def on(self, host: str) -> Any:
        """
        What *host* does.
        """
        return self.envoy if host == "envoy" else self.grpcio


UNREADABLE_MESSAGE = Difference(
    INTERNAL, UNKNOWN, "grpcio answers what its deserializer raises by itself, outside of our interceptors."
)
NO_WHOLE_MESSAGE = Difference(
    INTERNAL,
    DEADLINE_EXCEEDED,
    "grpcio takes a request without a whole message for one that was cancelled, and waits until somebody cancels it.",
)
STREAM_CUT_SHORT = Difference(INTERNAL, OK, "grpcio drops what is left of a message at the end of a stream.")
STRANGE_FLAG = Difference(
    {INTERNAL},
    {OK, INTERNAL, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED},
    "grpcio takes a message whose flag it does not know for an empty one, or for none.",
)
SECOND_MESSAGE = Difference(INTERNAL, OK, "grpcio reads one message of a unary request and drops the rest.")
STRANGE_ENCODING = Difference(
    UNIMPLEMENTED, INTERNAL, "The specification asks for UNIMPLEMENTED; grpcio fails to parse the header."
)
BAD_BASE64 = Difference(
    OK, INTERNAL, "The Envoy host drops the value: there are no bytes to hand over. grpcio refuses the call."
)
NOT_GRPC = Difference(
    ("415", None), ("200", OK), "The specification asks for HTTP 415; grpcio serves any content type."
)
NOT_POST = Difference({"405"}, {"", "200"}, "The Envoy host answers as HTTP; grpcio with INTERNAL or a reset.")
# Not on the wire, but in what is measured.
QUEUED = Difference(
    True,
    False,
    "Until grpcio's core hands a call over to Python, nothing of it is known. On the Envoy host Envoy has a clock.",
)
TOO_LARGE_IS_COUNTED_AS = Difference(
    RESOURCE_EXHAUSTED,
    CANCELLED,
    "grpcio's core refuses it by itself, and Python only learns that the call is over.",
)
UNARY_COMPRESSION = Difference(
    True, False, "grpcio compresses a single answer only if its handler has sent initial metadata by itself."
)
UNASKED_COMPRESSION = Difference(
    False, True, "grpcio compresses streams for clients that never said that they understand it. All of its own do."
)
SUDDEN_END = Difference(
    set(),
    {"CANCELLED", "INTERNAL", "UNAVAILABLE"},
    "Between SIGTERM and the moment its clients know, grpcio refuses new calls by cancelling them (its client shows "
    "some of them as INTERNAL), or closes the connection before it has read them (UNAVAILABLE); none of these has "
    "begun. With a drain delay, and with clients that heed health, none is made.",
)
