"""
The partial file of a download: a hidden file beside the target.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer.errors import IntegrityError

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_asset(asset: assets_pb2.Asset) -> None:
    """
    Raises:
        IntegrityError: its name does not match its digest, or its size is invalid.
    """
    if not _DIGEST.fullmatch(asset.sha256) or asset.name != f"assets/{asset.sha256}" or asset.size_bytes < 0:
        raise IntegrityError(
            f"{asset.name!r} does not name the digest {asset.sha256!r}: the response of the service is invalid"
        )


@contextmanager
def about(path: Path) -> Iterator[None]:
    """
    Add the file name to errors of an open file, such as a full disk.

    Raises:
        OSError: the original error, with *path* as its file name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def part_of(path: Path, sha256: str) -> Path:
    """
    The partial file of *path*, with the digest in its name, so that the bytes of two assets never mix. No file of a
    version has such a name (`modelyard.paths.is_download`).
    """
    # A file name has 255 bytes at most, and a character up to four.
    name = path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{sha256[:16]}.part")


def open_part(part: Path, path: Path) -> BinaryIO:
    """
    Open *part* for reading and writing, at its start, without truncating it.

    Raises:
        IsADirectoryError: *path*, the target, is a folder.
        OSError: it cannot be opened, such as a symbolic link, which could lead to another user's file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "r+b")


def is_at(file: BinaryIO, part: Path) -> bool:
    """
    Whether *part* is still the name of this open file: another transfer may have moved or deleted it.
    """
    try:
        there = part.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno()))


def settle(file: BinaryIO, part: Path, path: Path, notes: Path | None = None) -> None:
    """
    Move a complete *part* to *path* atomically: after a power failure *path* is either the old file or complete.

    Args:
        notes: the recorded ranges of *part*, deleted first: another transfer may create a part right after.

    Raises:
        OSError: it cannot be written.
    """
    file.flush()
    os.fsync(file.fileno())
    if notes is not None:
        notes.unlink(missing_ok=True)
    if sys.platform == "win32":
        # Windows does not move open files.
        file.close()
    part.replace(path)
    # Not every system can open a folder; where it cannot, the file system syncs it by itself.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
