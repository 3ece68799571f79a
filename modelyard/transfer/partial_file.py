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
        IntegrityError: its name is not that of its digest, or its size is none.
    """
    if not _DIGEST.fullmatch(asset.sha256) or asset.name != f"assets/{asset.sha256}" or asset.size_bytes < 0:
        raise IntegrityError(
            f"{asset.name!r} does not name the digest {asset.sha256!r}: the service is not to be trusted"
        )


@contextmanager
def about(path: Path) -> Iterator[None]:
    """
    Have what goes wrong with an open file, such as a disk that is full, say which file it is.

    Raises:
        OSError: with the name of *path*.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def part_of(path: Path, sha256: str) -> Path:
    """
    Where the bytes of *path* are gathered: with the digest in the name, so that the bytes of two assets never mix. No
    file of a version has such a name: `modelyard.paths.is_download`.
    """
    # A file name has 255 bytes at most, and a character up to four.
    name = path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{sha256[:16]}.part")


def open_part(part: Path, path: Path) -> BinaryIO:
    """
    Open *part* for reading and writing, at its start; what is in it stays.

    Raises:
        IsADirectoryError: *path*, which it is for, is a folder.
        OSError: it cannot be opened, for example because it is a link: it would lead to a file of somebody else's.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "r+b")


def is_at(file: BinaryIO, part: Path) -> bool:
    """
    Whether *part* is still the name of this open file: somebody else may have moved it in place, or thrown it away.
    """
    try:
        there = part.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno()))


def settle(file: BinaryIO, part: Path, path: Path, notes: Path | None = None) -> None:
    """
    Move a complete *part* in place, so that after a power failure *path* is either what it was or complete.

    Args:
        notes: a file that says what is in *part*; it goes first: others may begin a part of that name right afterwards.

    Raises:
        OSError: it cannot be written.
    """
    file.flush()
    os.fsync(file.fileno())
    if notes is not None:
        notes.unlink(missing_ok=True)
    if sys.platform == "win32":
        # Nobody can move an open file there.
        file.close()
    part.replace(path)
    # Not everywhere can a folder be opened; where it cannot, the file system takes care by itself.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
