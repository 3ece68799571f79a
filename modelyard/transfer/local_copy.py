"""
Local copies of files that would be downloaded twice.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelyard.transfer.locks import try_lock
from modelyard.transfer.partial_file import about, is_at, open_part, part_of, settle
from modelyard.transfer.progress import ProgressCallback, no_progress

_PIECE = 1024 * 1024


def copy_file(
    source: Path, target: Path, sha256: str, size_bytes: int, progress: ProgressCallback = no_progress
) -> bool:
    """
    Copy a file, verify the copy, and move it in place.

    Args:
        source: file to copy.
        target: path of the copy.
        sha256: expected digest.
        size_bytes: expected size.
        progress: called after each MiB.

    Returns:
        Whether the copy is in place. If not, *source* has other bytes, or another transfer writes *target*: download.

    Raises:
        OSError: the copy cannot be written.
    """
    part = part_of(target, sha256)
    with about(target), open_part(part, target) as file:
        if not (try_lock(file) and is_at(file, part)):
            return False
        file.truncate(0)
        if not _copied(source, file.fileno(), sha256, size_bytes, progress):
            part.unlink(missing_ok=True)
            return False
        # The recorded ranges of an interrupted download are obsolete.
        settle(file, part, target, part.with_name(f"{part.name}.ranges"))
    return True


def _copied(source: Path, into: int, sha256: str, size_bytes: int, progress: ProgressCallback) -> bool:
    hashed, done = hashlib.sha256(), 0
    try:
        origin = source.open("rb")
    except OSError:
        return False
    with origin:
        while piece := origin.read(_PIECE):
            hashed.update(piece)
            done += _write(into, piece)
            progress(min(done, size_bytes), size_bytes)
    return hashed.hexdigest() == sha256


def _write(into: int, piece: bytes) -> int:
    view = memoryview(piece)
    while view:
        view = view[os.write(into, view) :]
    return len(piece)
