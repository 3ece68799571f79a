"""
Serialization of values for a bytea column: JSON, compressed with zlib.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def pack(plain: dict[str, Any]) -> bytes:
    """
    Serialize *plain*, which contains JSON types only.
    """
    return zlib.compress(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())


def unpack(data: bytes, build: Callable[[dict[str, Any]], T]) -> T:
    """
    Deserialize the result of ``pack`` and convert it with *build*.

    Raises:
        ValueError: *data* is damaged, or *build* raised a TypeError or a KeyError.
    """
    try:
        return build(json.loads(zlib.decompress(data)))
    except (zlib.error, TypeError, KeyError) as error:
        raise ValueError(f"not a stored inspection: {error}") from error
