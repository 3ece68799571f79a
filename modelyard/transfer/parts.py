"""
Where the bytes of a file are gathered before it appears: in a hidden file beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
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


def settle(file: BinaryIO, part: Path, path: Path) -> None:
    """
    Move a complete *part* in place, so that after a power failure *path* is either what it was or complete.

    Raises:
        OSError: it cannot be written.
    """
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
    # Not everywhere can a folder be opened; where it cannot, the file system takes care by itself.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
