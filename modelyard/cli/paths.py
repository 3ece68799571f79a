"""
Which paths a version's files may have: those that mean the same file on every system, inside whatever folder.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from modelyard.transfer.parts import is_part

_LONGEST = 1024
_DRIVE = re.compile(r"[A-Za-z]:")


def wrong_with(path: str) -> str:
    """
    Why *path* cannot be the path of a file of a version; empty when it can.

    It is what CreateVersion refuses, and what would lead out of the folder that a version is pulled into.
    """
    parts = path.split("/")
    rules = [
        (any(part in {"", ".", ".."} for part in parts), 'has an empty, "." or ".." part, or begins with a slash'),
        ("\\" in path, "has a backslash, which separates folders on some systems"),
        (any(_DRIVE.match(part) for part in parts), "begins like a drive letter"),
        ("\0" in path, "has the character NUL"),
        (len(path) > _LONGEST, f"is longer than {_LONGEST:,} characters"),
        (any(0xD800 <= ord(sign) < 0xE000 for sign in path), "is not UTF-8"),
        (is_part(parts[-1]), "is what an interrupted download left: download again or delete it"),
    ]
    return next((rule for broken, rule in rules if broken), "")


def clashes(paths: list[str]) -> list[str]:
    """
    Those of *paths* that are there twice, or are a folder to another one.
    """
    folders = {folder.as_posix() for path in paths for folder in Path(path).parents}
    counts = Counter(paths)
    return sorted(path for path, count in counts.items() if count > 1 or path in folders)


def leads_out(root: Path, path: str) -> bool:
    """
    Whether something that is in the folder already, a link, makes *path* lead out of it.

    Args:
        root: the folder, resolved.
        path: relative, and right.
    """
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink() and not place.resolve().is_relative_to(root):
            return True
    return False
