"""
Compressed variants of an asset's bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable

import zstandard

from services.cdn.model.compression import LEAST_BYTES, MOST_BYTES, worth_keeping, worth_trying

# Half a second each for 32 MiB of source code. The next levels take several times as long for a few hundredths less.
_GZIP_LEVEL = 6
# Its windows have 4 MiB: over HTTP, nobody need read a frame whose window is larger than 8 MiB (RFC 9659).
_ZSTD_LEVEL = 9


def compressed(
    data: bytes,
    media_type: str,
    *,
    format: str = "",  # noqa: A002 - the asset's field
    least_bytes: int = LEAST_BYTES,
    most_bytes: int = MOST_BYTES,
) -> dict[str, bytes]:
    """
    The variants of *data* that save at least a tenth, by the names that HTTP has for their encodings (RFC 9110, section
    8.4.1; RFC 8878, section 7.2): "gzip", "zstd".

    The same bytes give the same variants, so that it does not matter who of several makes them. It takes about
    30 ms for each MiB, without the GIL: call it in a thread.

    Args:
        data: the original.
        media_type: what was declared.
        format: what it was recognised as; it decides when *media_type* says nothing.
        least_bytes: smaller ones have no variants.
        most_bytes: larger ones have no variants.
    """
    if not worth_trying(media_type, len(data), format=format, least_bytes=least_bytes, most_bytes=most_bytes):
        return {}
    variants = {encoding: compress(data) for encoding, compress in _COMPRESSORS.items()}
    return {encoding: variant for encoding, variant in variants.items() if worth_keeping(len(data), len(variant))}


def _gzip(data: bytes) -> bytes:
    # Without the time, which would make every variant another one (RFC 1952, MTIME).
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": _zstd}
