"""
The files of a folder, as a version would have them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard.cli.errors import RefusedError
from modelyard.cli.paths import wrong_with

#: As many as a version may have.
MOST_FILES = 10_000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Found:
    """
    A file of a folder.

    Args:
        path: relative to the folder, with forward slashes.
        place: where it is.
        size_bytes: how large it is.
    """

    path: str
    place: Path
    size_bytes: int


def scan(folder: Path) -> list[Found]:
    """
    All files below *folder*, by path. Links are followed as long as they stay inside.

    Raises:
        OSError: it is not a folder, or cannot be read.
        RefusedError: it holds what a version cannot hold; several things are told at once.
    """
    wrong: list[str] = []
    root = folder.resolve(strict=True)
    found = sorted(_below((root,), root, "", wrong), key=lambda each: each.path)
    if not found and not wrong:
        wrong.append(f"{folder} holds no files")
    if len(found) > MOST_FILES:
        wrong.append(f"{folder} holds {len(found):,} files, and a version at most {MOST_FILES:,}")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
        raise RefusedError("; ".join([*wrong[:_SHOWN], *more]))
    return found


def _below(above: tuple[Path, ...], folder: Path, prefix: str, wrong: list[str]) -> Iterator[Found]:
    # *above* are the folders on the way here, the outermost first, each as it really is.
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    if not names and prefix:
        wrong.append(f"{_shown(prefix)} is an empty folder, which a version cannot hold: delete it")
    for name in names:
        yield from _entry(above, folder / name, f"{prefix}{name}", wrong)


def _entry(above: tuple[Path, ...], place: Path, path: str, wrong: list[str]) -> Iterator[Found]:
    if reason := wrong_with(path) or (_link(above, place) if place.is_symlink() else ""):
        wrong.append(f"{_shown(path)} {reason}")
        return
    found = place.stat()
    if stat.S_ISDIR(found.st_mode):
        yield from _below((*above, place.resolve()), place, f"{path}/", wrong)
    elif stat.S_ISREG(found.st_mode):
        yield Found(path, place, found.st_size)
    else:
        wrong.append(f"{_shown(path)} is neither a file nor a folder")


def _link(above: tuple[Path, ...], place: Path) -> str:
    """
    Why a link cannot be followed; empty when it can.
    """
    try:
        target = place.resolve(strict=True)
    except (OSError, RuntimeError):
        return "is a link that leads nowhere"
    if not target.is_relative_to(above[0]):
        return f"is a link out of the folder, to {target}: copy what it leads to"
    if target in above:
        return "is a link to a folder that it is in"
    return ""


def _shown(path: str) -> str:
    # Names that are not UTF-8 cannot be printed, and line breaks would look like several messages.
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign) & 0xFF:02x}" for sign in path)
