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
    Copy a file, verified on the way, and move the copy in place when it is complete.

    Args:
        source: which one.
        target: where to.
        sha256: of its bytes.
        size_bytes: how many they are.
        progress: told after each MiB.

    Returns:
        Whether that was done. If not, *source* has other bytes, or somebody else is writing *target*: download it.

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
        # What an interrupted download of it has noted.
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
