"""
Where the two hosts differ, and why that is right, or no worse than it looks. Nothing else may differ.

A test that meets one of these asks for it by its name, so this page is the whole list. The Envoy host follows the
specification (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md); where grpcio does not, that is its own
core's doing, out of reach of the chassis. A client that speaks gRPC properly meets only the last two, as long as its
connection is its own: what grpcio could not parse once it also refuses to others on the same connection. The gateway
parses those headers first (gateway/grpc.lua).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Statuses by number, as they come over the wire.
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 1, 2, 3, 4, 8
UNIMPLEMENTED, INTERNAL = 12, 13


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


CUT_SHORT = Difference(
    INVALID_ARGUMENT,
    UNIMPLEMENTED,
    "grpcio drops what is left of a message at the end of a request: then there is none.",
)
STREAM_CUT_SHORT = Difference(INVALID_ARGUMENT, OK, "grpcio drops what is left of a message at the end of a stream.")
STRANGE_FLAG = Difference(
    {INVALID_ARGUMENT},
    {OK, INTERNAL, UNIMPLEMENTED, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED},
    "grpcio takes a message whose flag it does not know for an empty one, or for none.",
)
NOT_UNPACKED = Difference(
    INVALID_ARGUMENT, INTERNAL, "What a client has packed badly is its own fault; grpcio says INTERNAL by itself."
)
STRANGE_CODEC = Difference(
    UNIMPLEMENTED, OK, "grpcio serves any content type. The gateway lets none through that is not spoken."
)
STRANGE_ENCODING = Difference(
    UNIMPLEMENTED, INTERNAL, "The specification asks for UNIMPLEMENTED; grpcio fails to parse the header."
)
BAD_TIMEOUT = Difference(INVALID_ARGUMENT, INTERNAL, "It is the client's fault; grpcio fails to parse the header.")
BAD_BASE64 = Difference(
    OK, INTERNAL, "The Envoy host drops the value: there are no bytes to hand over. grpcio refuses the call."
)
UNREADABLE_PATH = Difference(
    True,
    False,
    "At a path with bytes that are not UTF-8 grpcio's own loop ends, and with it all service: nobody but a gateway, "
    "which lets none through, may reach its port.",
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
