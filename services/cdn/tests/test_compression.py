"""
Compressed variants: only for suitable assets, only if smaller, and deterministic.
"""

from __future__ import annotations

import gzip
import hashlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cdn.model.compression import worth_keeping, worth_trying
from services.cdn.store.objects import compression
from services.cdn.store.objects.compression import compressed

TEXT = b"All happy models are alike; each unhappy model is unhappy in its own way.\n" * 100
NOISE = hashlib.shake_256(b"noise").digest(2**20)


def unpacked(encoding: str, data: bytes) -> bytes:
    """
    A decompressed variant.
    """
    return gzip.decompress(data) if encoding == "gzip" else zstandard.ZstdDecompressor().decompress(data)


def test_text() -> None:
    """
    Text has both variants, which are smaller and decompress to the original.
    """
    found = compressed(TEXT, "text/plain; charset=utf-8")
    assert set(found) == {"gzip", "zstd"}
    for encoding, data in found.items():
        assert unpacked(encoding, data) == TEXT
        assert len(data) <= len(TEXT) * 0.9


def test_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The same bytes give the same variants at another time.
    """
    first = compressed(TEXT, "text/plain")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert compressed(TEXT, "text/plain") == first
    assert first["gzip"][4:8] == bytes(4)


def test_noise() -> None:
    """
    Bytes that do not shrink by a tenth have no variants, whatever their media type.
    """
    assert compressed(NOISE, "text/plain") == {}


def test_only_the_encodings_that_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An encoding that does not save enough is omitted, the other one is kept.
    """
    monkeypatch.setitem(compression._COMPRESSORS, "gzip", lambda data: data[: len(data) * 9 // 10 + 1])
    assert set(compressed(TEXT, "text/plain")) == {"zstd"}


def test_sizes() -> None:
    """
    Assets outside the size limits are not compressed; the limits are inclusive.
    """
    assert compressed(b"a" * 1023, "text/plain") == {}
    assert set(compressed(b"a" * 1024, "text/plain")) == {"gzip", "zstd"}
    assert compressed(b"a" * 1024, "text/plain", most_bytes=1023) == {}
    assert set(compressed(b"a" * 100, "text/plain", least_bytes=100, most_bytes=100)) == {"gzip", "zstd"}
    assert not worth_trying("text/plain", 32 * 2**20 + 1)


@pytest.mark.parametrize(
    ("media_type", "format_", "worth"),
    [
        ("text/html", "", True),
        ("TEXT/HTML; charset=utf-8", "", True),
        ("application/json", "", True),
        ("application/ld+json", "", True),
        ("application/x-ndjson", "", True),
        ("application/yaml", "", True),
        ("text/javascript", "", True),
        ("image/svg+xml", "", True),
        ("application/wasm", "", True),
        ("font/ttf", "", True),
        ("font/woff2", "", False),
        ("image/png", "", False),
        ("image/png", "TEXT", False),
        ("application/zip", "", False),
        ("application/vnd.onnx", "ONNX", False),
        ("application/octet-stream", "SAFETENSORS", False),
        ("application/octet-stream", "", False),
        ("application/octet-stream", "TEXT", True),
        ("", "TEXT", True),
        ("", "", False),
    ],
)
def test_kinds(media_type: str, format_: str, worth: bool) -> None:
    """
    Text and uncompressed binary formats are compressed; weights and compressed formats are not. The detected format
    decides if no media type is declared.
    """
    assert worth_trying(media_type, 5000, format=format_) is worth


def test_a_tenth() -> None:
    """
    A variant is kept if it saves at least a tenth, exact to the byte.
    """
    assert worth_keeping(1000, 900)
    assert not worth_keeping(1000, 901)


def test_the_window() -> None:
    """
    A zstd frame contains the size of the original, and needs a window that HTTP clients must support (RFC 9659).
    """
    data = NOISE * 12
    frame = zstandard.get_frame_parameters(compressed(data, "text/plain")["zstd"])
    assert frame.content_size == len(data)
    assert frame.window_size <= 8 * 2**20


@given(data=st.binary(max_size=300), times=st.integers(1, 50))
@settings(deadline=None)
def test_any_bytes(data: bytes, times: int) -> None:
    """
    Every variant of any bytes decompresses to them.
    """
    for encoding, variant in compressed(data * times, "text/plain", least_bytes=0).items():
        assert unpacked(encoding, variant) == data * times
