"""
Metadata, statuses and deadlines as HTTP/2 headers.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md ("Custom-Metadata", "Timeout", "Status-Message").
"""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable
from functools import lru_cache

import grpc

from services.chassis.hosts.framing import StatusError
from services.chassis.serving.context import Metadata

Headers = list[tuple[bytes, bytes]]

#: When Envoy saw the request first, in seconds since 1970: see `services.chassis.hosts.config`.
ARRIVAL = b"x-modelyard-arrival"
# A stall beyond it counts as so long: a clock that was set meanwhile says nothing of how long a call waited.
_LONGEST_WAIT = 60.0

# What belongs to HTTP or to gRPC itself; the rest of a request's headers is the caller's metadata.
_RESERVED = frozenset(
    {
        b"connection",
        b"content-length",
        b"content-type",
        b"grpc-accept-encoding",
        b"grpc-encoding",
        b"grpc-timeout",
        b"host",
        b"te",
        b"transfer-encoding",
        b"x-forwarded-proto",
        ARRIVAL,
    }
)
# Bytes of metadata that a call may bring along, on both hosts, counted as HTTP/2 does (RFC 9113, 10.5.1).
MOST_METADATA = 16384

_KEY = re.compile(r"[0-9a-z_.\-]+")
_VALUE = re.compile(rb"[\x20-\x7e]*")
_ESCAPED = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def to_metadata(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    """
    The metadata in a request's *headers*, in order.

    A `-bin` value that is not base64 is left out: there are no bytes to hand over, and the rest of the call is fine.
    """
    found: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        if key in _RESERVED:
            continue
        if key.endswith(b"-bin"):
            found.extend((key.decode("latin-1"), part) for part in _binary(value))
        else:
            found.append((key.decode("latin-1"), value.decode("latin-1")))
    return tuple(found)


def check_size(headers: Headers) -> None:
    """
    Raises:
        StatusError: there is more metadata than a call may bring.
    """
    size = 32 * len(headers)
    for key, value in headers:
        size += len(key) + len(value)
    if size > MOST_METADATA and (size := size - _own_size(headers)) > MOST_METADATA:
        raise StatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"received metadata size exceeds limit ({size} vs. {MOST_METADATA})"
        )


def _own_size(headers: Headers) -> int:
    # What this process's Envoy has added is not the caller's.
    return sum(32 + len(key) + len(value) for key, value in headers if key == ARRIVAL)


def waited(arrival: bytes | None) -> float:
    """
    The seconds since a request arrived at Envoy, which runs by the same clock; 0 if they are not known.
    """
    if arrival is None:
        return 0.0
    try:
        return min(max(time.time() - float(arrival), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0


def check_codec(content_type: bytes) -> None:
    """
    Raises:
        StatusError: messages are not as this server writes and reads them: protobuf, which a type may say or leave out.
    """
    codec = content_type.partition(b";")[0].partition(b"+")[2]
    if codec not in {b"", b"proto"}:
        name = content_type.decode("latin-1")
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED, f"content-type {name!r} is not spoken here, only application/grpc+proto"
        )


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """
    *metadata* as headers.

    Raises:
        ValueError: a key or a value cannot be a header, or belongs to gRPC itself.
    """
    return [(_key(key), _encoded(key, value)) for key, value in metadata]


@lru_cache(maxsize=1024)
def timeout_seconds(header: bytes) -> float | None:
    """
    The seconds in a `grpc-timeout` ("100m" is 0.1), or None if it is not one.
    """
    match = _TIMEOUT.fullmatch(header)
    return None if match is None else int(match[1]) * _SECONDS[match[2]]


def status_headers(code: grpc.StatusCode, details: str) -> Headers:
    """
    A status as the trailers that carry it.
    """
    headers: Headers = [(b"grpc-status", b"%d" % code.value[0])]
    if details:
        headers.append((b"grpc-message", percent_encoded(details)))
    return headers


def percent_encoded(text: str) -> bytes:
    """
    *text* as a `grpc-message`: UTF-8, with everything that is not printable ASCII, and the percent sign, escaped.
    """
    return _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    # Handlers use the same few keys over and over.
    if not _KEY.fullmatch(key) or (key.startswith("grpc-") and key != "grpc-status-details-bin"):
        raise ValueError(f"metadata was invalid: {key!r} is no key for metadata")
    return key.encode("ascii")


def _encoded(key: str, value: str | bytes) -> bytes:
    if key.endswith("-bin"):
        if isinstance(value, str):
            raise ValueError(f"metadata was invalid: the value of {key!r} has to be bytes")
        return b64encode(value).rstrip(b"=")
    raw = value.encode("ascii") if isinstance(value, str) else value
    if not _VALUE.fullmatch(raw):
        raise ValueError(f"metadata was invalid: the value of {key!r} has to be printable ASCII")
    return raw


def _binary(value: bytes) -> Iterable[bytes]:
    # Several values of one key may come in one header, and padding may be missing.
    for part in map(bytes.strip, value.split(b",")):
        try:
            yield b64decode(part + b"=" * (-len(part) % 4), validate=True)
        except binascii.Error:
            continue
