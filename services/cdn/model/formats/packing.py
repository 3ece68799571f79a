"""
Values for a column of bytes: JSON, compressed with zlib.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def pack(plain: dict[str, Any]) -> bytes:
    """
    *plain*, which holds only what JSON has, as bytes.
    """
    return zlib.compress(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())


def unpack(data: bytes, build: Callable[[dict[str, Any]], T]) -> T:
    """
    What *build* makes of the value that ``pack`` made *data* of.

    Raises:
        ValueError: *data* is damaged, or *build* misses something in it (a TypeError or a KeyError).
    """
    try:
        return build(json.loads(zlib.decompress(data)))
    except (zlib.error, TypeError, KeyError) as error:
        raise ValueError(f"not a stored inspection: {error}") from error
