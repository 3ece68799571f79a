"""
Which assets to compress, and which compressed variants to store.
"""

from __future__ import annotations

from services.cdn.model.media_types import essence, is_text, is_unknown

#: Smaller assets fit in one packet, compressed or not.
LEAST_BYTES = 1024
#: Assets are compressed in memory and in one piece, so their size is limited.
MOST_BYTES = 32 * 1024 * 1024
#: Neither text nor formats with their own compression.
_LOOSE = frozenset(
    {
        "application/vnd.ms-fontobject",
        "application/wasm",
        "font/collection",
        "font/otf",
        "font/sfnt",
        "font/ttf",
        "image/bmp",
        "image/vnd.microsoft.icon",
        "image/x-icon",
    }
)


def worth_trying(
    media_type: str,
    size_bytes: int,
    *,
    format: str = "",  # noqa: A002 - the asset's field
    least_bytes: int = LEAST_BYTES,
    most_bytes: int = MOST_BYTES,
) -> bool:
    """
    Whether compression is expected to help for an asset of this type and size. Not for weights, which are nearly
    incompressible and read in ranges.

    Args:
        media_type: as declared.
        size_bytes: of the original.
        format: as detected (``formats.Inspection``), used if *media_type* is unspecific.
        least_bytes: minimum size.
        most_bytes: maximum size.
    """
    if not least_bytes <= size_bytes <= most_bytes:
        return False
    if is_unknown(media_type):
        return format == "TEXT"
    return is_text(media_type) or essence(media_type) in _LOOSE


def worth_keeping(size_bytes: int, compressed_bytes: int) -> bool:
    """
    Whether a variant of *compressed_bytes* saves at least a tenth of an original of *size_bytes*.
    """
    return compressed_bytes * 10 <= size_bytes * 9
