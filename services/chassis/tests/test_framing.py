"""
Messages and metadata as bytes: what the Envoy host makes of them by itself.
"""

from __future__ import annotations

import gzip
import random
import zlib

import grpc
import pytest

from services.chassis.hosts.framing import IDENTITY, StatusError, Unframer, agreed, encoding_of, frame, whole
from services.chassis.hosts.headers import (
    MOST_METADATA,
    check_size,
    from_metadata,
    percent_encoded,
    timeout_seconds,
    to_metadata,
)

_MOST = 1000


def _unframed(body: bytes, encoding: str, sizes: random.Random) -> list[bytes]:
    unframer, found = Unframer(encoding, _MOST), []
    while body:
        cut = sizes.randint(1, 7)
        unframer.feed(body[:cut])
        body = body[cut:]
        while (message := unframer.pop()) is not None:
            found.append(message)
    assert unframer.pending == 0
    return found


@pytest.mark.parametrize("encoding", [IDENTITY, "gzip", "deflate"])
def test_any_cut(encoding: str) -> None:
    """
    Messages come out as they went in, wherever the body is cut.
    """
    dice = random.Random(1)  # noqa: S311 - any sizes will do
    messages = [*(dice.randbytes(size) for size in (0, 1, 5, 300)), b"a" * _MOST]
    body = b"".join(frame(message, _MOST, encoding) for message in messages)
    for _ in range(20):
        assert _unframed(body, encoding, dice) == messages


def test_whole() -> None:
    """
    The short way takes exactly one message that is not compressed, and leaves everything else to the long way.
    """
    one = frame(b"abc", _MOST)
    assert whole(one, _MOST) == b"abc"
    assert whole(frame(b"", _MOST), _MOST) == b""
    for other in (b"", one[:4], one[:-1], one + b"x", one * 2, frame(b"abc", _MOST, "gzip"), frame(b"abc", _MOST)):
        if other != one:
            assert whole(other, _MOST) is None
    assert whole(frame(bytes(_MOST + 1), _MOST + 1), _MOST) is None


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (b"\x02\x00\x00\x00\x00", IDENTITY, grpc.StatusCode.INVALID_ARGUMENT),
        (b"\x01\x00\x00\x00\x00", IDENTITY, grpc.StatusCode.INTERNAL),
        (b"\x00\xff\xff\xff\xff", IDENTITY, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"\x01\x00\x00\x00\x03abc", "gzip", grpc.StatusCode.INVALID_ARGUMENT),
        (frame(bytes(_MOST + 1), 10_000, "gzip"), "gzip", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (frame(b"a" * 100, _MOST, "gzip"), "deflate", grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["flag", "no encoding", "length", "not gzip", "bomb", "another encoding"],
)
def test_bad(body: bytes, encoding: str, code: grpc.StatusCode) -> None:
    """
    What is no message has its status as soon as that can be known.
    """
    unframer = Unframer(encoding, _MOST)
    unframer.feed(body)
    with pytest.raises(StatusError) as caught:
        unframer.pop()
    assert caught.value.code is code


def test_cut_short_within_gzip() -> None:
    """
    A truncated compressed message is rejected.
    """
    packed = gzip.compress(b"abc" * 100)[:-9]
    unframer = Unframer("gzip", _MOST)
    unframer.feed(b"\x01" + len(packed).to_bytes(4, "big") + packed)
    with pytest.raises(StatusError, match="cut short"):
        unframer.pop()


def test_agreed() -> None:
    """
    Answers are compressed when the handler asks for it and the client accepts it, and only then.
    """
    assert agreed(grpc.Compression.Gzip, b"identity,deflate, gzip") == "gzip"
    assert agreed(grpc.Compression.Deflate, b"deflate") == "deflate"
    assert agreed(grpc.Compression.Gzip, b"deflate") == IDENTITY
    assert agreed(grpc.Compression.Gzip, None) == IDENTITY
    assert agreed(grpc.Compression.NoCompression, b"gzip") == IDENTITY
    assert agreed(None, b"gzip") == IDENTITY
    assert zlib.decompress(frame(b"abc", 3, "deflate")[5:]) == b"abc"


def test_unknown_encoding() -> None:
    """
    An encoding that is not spoken here is UNIMPLEMENTED, as the specification asks.
    """
    with pytest.raises(StatusError) as caught:
        encoding_of(b"snappy")
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_both_ways() -> None:
    """
    Metadata comes back as it was, binary values without padding, and several of them in one header, included.
    """
    metadata = (("a", "1"), ("b-bin", b"\x00\xff"), ("a", "2"), ("c-bin", b""))
    assert to_metadata(from_metadata(metadata)) == metadata
    assert to_metadata([(b"d-bin", b"AAE, AAI="), (b"te", b"trailers")]) == (("d-bin", b"\0\1"), ("d-bin", b"\0\2"))


@pytest.mark.parametrize(
    "pair", [("A", "1"), ("a b", "1"), ("", "1"), ("grpc-status", "0"), ("a", "ü"), ("a", "1\r\nb: 2"), ("a-bin", "1")]
)
def test_unfit_metadata(pair: tuple[str, str]) -> None:
    """
    What cannot be a header, or would be another one, is refused.
    """
    with pytest.raises(ValueError, match=r"metadata was invalid|ascii"):
        from_metadata([pair])


def test_size_of_metadata() -> None:
    """
    Metadata is counted with HTTP/2's overhead of 32 bytes each.
    """
    check_size([(b"k", bytes(MOST_METADATA - 33))])
    with pytest.raises(StatusError):
        check_size([(b"k", bytes(MOST_METADATA - 32))])


def test_timeouts() -> None:
    """
    Every unit is understood, and nothing else.
    """
    units = {b"2H": 7200, b"3M": 180, b"4S": 4, b"5m": 0.005, b"6u": 6e-6, b"7n": 7e-9, b"99999999H": 359999996400}
    assert {text: timeout_seconds(text) for text in units} == pytest.approx(units)
    assert [timeout_seconds(bad) for bad in (b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s")] == [None] * 7


def test_messages_of_statuses() -> None:
    """
    A status's message keeps what is printable and escapes the rest, the percent sign included.
    """
    assert percent_encoded("50 % ü\n") == b"50 %25 %C3%BC%0A"
