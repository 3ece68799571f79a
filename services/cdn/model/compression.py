"""
Which assets are worth a compressed variant, and which variants are worth their place.
"""

from __future__ import annotations

from services.cdn.model.media_types import essence, is_text, is_unknown

#: Less fits in one packet either way.
LEAST_BYTES = 1024
#: Compressed in memory and at once, so that there is a limit.
MOST_BYTES = 32 * 1024 * 1024
#: Not text, and not compressed by their own format either.
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
    Whether an asset is of a kind and a size that compression helps.

    Weights are not: their bytes look like noise, and readers want parts of them.

    Args:
        media_type: what was declared.
        size_bytes: of the original.
        format: what it was recognised as (``formats.Inspection``): it decides when *media_type* says nothing.
        least_bytes: smaller ones are left alone.
        most_bytes: larger ones are left alone.
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
