"""
The client's size limits at a sixteenth: files of the same numbers of parts, chunks and ranges with few bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelyard import aio, client
from modelyard.transfer import hasher, range_download, ranges, stream_download, upload_source, uploads

SCALE = 16

_LIMITS = (
    (uploads, "RESUMABLE_BYTES"),
    (upload_source, "_CHUNK_BYTES"),
    (client, "RANGED_BYTES"),
    (aio, "RANGED_BYTES"),
    (range_download, "_SAVE_BYTES"),
    (ranges, "_MIB"),
    (ranges, "_LEAST"),
    (ranges, "_USUAL"),
    (stream_download, "_CHUNK_BYTES"),
    (hasher, "_BLOCK_BYTES"),
    (hasher, "_SYNC_BYTES"),
)


def scale_down(set_value: Callable[[Any, str, int], None] = setattr) -> None:
    """
    Divide every limit of the client by SCALE.

    Args:
        set_value: such as `monkeypatch.setattr`; `setattr` in a process of its own.
    """
    for module, name in _LIMITS:
        set_value(module, name, getattr(module, name) // SCALE)
