"""
Length-prefixed messages, as gRPC puts them into the body of a request or response.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md ("Length-Prefixed-Message") and
https://github.com/grpc/grpc/blob/master/doc/compression.md.
"""

from __future__ import annotations

import zlib
from struct import Struct

import grpc

PREFIX = Struct(">BI")

IDENTITY = "identity"
ACCEPTED = b"identity, deflate, gzip"

# What zlib calls the formats: 31 is gzip's header and trailer, 15 is zlib's own, which HTTP calls deflate.
_WBITS = {"gzip": 31, "deflate": 15}


class StatusError(Exception):
    """
    The call has to end with *code*: what it carries is not gRPC, or is too much of it. That is its client's fault, and
    INTERNAL would be ours (docs/adr/0026).

    Args:
        code: the status to answer with.
        details: the message to answer with.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Unframer:
    """
    Takes a body in pieces of any size and gives back the messages in it.

    Args:
        encoding: the request's `grpc-encoding`; messages marked as compressed are decompressed by it.
        most: bytes that a message may have, before and after decompression.
    """

    __slots__ = ("_buffer", "_encoding", "_most")

    def __init__(self, encoding: str, most: int) -> None:
        self._encoding = encoding
        self._most = most
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> None:
        """
        Take the next piece of the body.
        """
        self._buffer += piece

    def pop(self) -> bytes | None:
        """
        The next message, or None until more of it is fed.

        Raises:
            StatusError: the message is too large, or it is not one.
        """
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        flag, length = PREFIX.unpack_from(buffer)
        self._check(flag, length)
        end = 5 + length
        if len(buffer) < end:
            return None
        # The view is let go before the buffer shrinks: a bytearray with a view on it refuses to.
        with memoryview(buffer) as view:
            message = bytes(view[5:end])
        del buffer[:end]
        return decompress(message, self._encoding, self._most) if flag else message

    @property
    def pending(self) -> int:
        """
        Bytes fed that are not a whole message yet: an incomplete one, if the body ends here.
        """
        return len(self._buffer)

    def _check(self, flag: int, length: int) -> None:
        if flag > 1:
            raise StatusError(
                grpc.StatusCode.INVALID_ARGUMENT, f"bad gRPC frame: the compression flag is {flag}, not 0 or 1"
            )
        if length > self._most:
            raise too_large("Received", length, self._most)
        if flag and self._encoding == IDENTITY:
            # The one fault of a client's for which the specification of compression demands this code by its name.
            raise StatusError(
                grpc.StatusCode.INTERNAL, "bad gRPC frame: marked as compressed, without a grpc-encoding header"
            )


def whole(body: bytes, most: int) -> bytes | None:
    """
    The message, if *body* is exactly one that is not compressed: what nearly every unary request is.

    Returns:
        None for anything else; an `Unframer` will say what it is.
    """
    size = len(body)
    if size < 5 or size > most + 5 or body[0]:
        return None
    return body[5:] if int.from_bytes(body[1:5], "big") == size - 5 else None


def frame(message: bytes, most: int, encoding: str = IDENTITY) -> bytes:
    """
    *message* as it goes into a body, compressed unless *encoding* is identity.

    Raises:
        StatusError: it is larger than *most* bytes.
    """
    if len(message) > most:
        raise too_large("Sent", len(message), most)
    if encoding == IDENTITY:
        return b"\x00" + len(message).to_bytes(4, "big") + message
    compressor = zlib.compressobj(wbits=_WBITS[encoding])
    packed = compressor.compress(message) + compressor.flush()
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


def decompress(message: bytes, encoding: str, most: int) -> bytes:
    """
    *message* before it was compressed, never more than *most* bytes of it: a small one may unpack to gigabytes.

    Raises:
        StatusError: it is not compressed by *encoding*, or it is too large.
    """
    unpacker = zlib.decompressobj(wbits=_WBITS[encoding])
    try:
        unpacked = unpacker.decompress(message, most + 1)
    except zlib.error as error:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, f"bad gRPC message: it does not unpack by {encoding} ({error})"
        ) from None
    if len(unpacked) > most:
        raise too_large("Received", len(unpacked), most)
    if not unpacker.eof:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, f"bad gRPC message: what was packed by {encoding} is cut short"
        )
    return unpacked


def encoding_of(header: bytes | None) -> str:
    """
    The encoding that a request's `grpc-encoding` names.

    Raises:
        StatusError: not one that is spoken here.
    """
    if header is None:
        return IDENTITY
    name = header.decode("latin-1")
    if name != IDENTITY and name not in _WBITS:
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED,
            f'grpc-encoding "{name}" is not spoken here, only {ACCEPTED.decode()}',
        )
    return name


def agreed(wanted: grpc.Compression | None, accepted: bytes | None) -> str:
    """
    The encoding to answer in: the one that the handler wants, if the client accepts it.
    """
    if wanted is None or wanted is grpc.Compression.NoCompression or accepted is None:
        return IDENTITY
    name = "gzip" if wanted is grpc.Compression.Gzip else "deflate"
    return name if name in [each.strip() for each in accepted.decode("latin-1").split(",")] else IDENTITY


def too_large(verb: str, size: int, most: int) -> StatusError:
    """
    The error for a message beyond the limit, worded as grpcio does, so that both hosts answer alike.
    """
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{verb} message larger than max ({size} vs. {most})")
