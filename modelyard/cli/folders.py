"""
Scans a folder for the files of a version.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.cli.errors import RefusedError
from modelyard.cli.ignore_rules import IGNORE_FILE, Rules
from modelyard.paths import clashes, fault, shown

#: Maximum number of files of a version.
MOST_FILES = 10_000
_SHOWN = 5
#: Length at which the target of a link is cut in messages.
MOST_TARGET = 4096


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """
    A file of a folder.

    Args:
        path: relative to the folder, with forward slashes.
        place: path on this machine.
        size_bytes: size of the file.
    """

    path: str
    place: Path
    size_bytes: int


@dataclass(slots=True)
class Scan:
    """
    The contents of a folder.

    Args:
        files: files of the version, by path.
        left_out: paths that the rules exclude; folders end with a slash and stand for all that is in them.
        empty: empty folders, which a version cannot contain.
        followed: links to files outside of the folder, with their targets.
        wrong: errors about what a version cannot contain.
    """

    files: list[ScannedFile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    followed: list[tuple[str, Path]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, folder: Path) -> None:
        """
        Raises:
            RefusedError: the folder cannot become a version; the message lists up to five errors.
        """
        wrong = self.wrong + [clash.reason for clash in clashes([each.path for each in self.files])]
        if not self.files and not wrong:
            reason = " but what is left out" if self.left_out else ""
            wrong.append(f"{folder} holds no files{reason}")
        if len(self.files) > MOST_FILES:
            wrong.append(f"{folder} holds {len(self.files):,} files, and a version at most {MOST_FILES:,}")
        if wrong:
            more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
            raise RefusedError("; ".join([*wrong[:_SHOWN], *more]))


def scan(place: Path, rules: Rules, *, follow_links: bool = False) -> Scan:
    """
    All files below a folder, by path; or the file *place* itself, regardless of the rules. Links inside of the folder
    are followed.

    Args:
        place: folder or file.
        rules: ignore rules.
        follow_links: also follow links to files outside of the folder.

    Raises:
        OSError: it does not exist, or cannot be read.
        RefusedError: it contains what a version cannot contain; the message lists up to five errors.
    """
    found = Scan()
    root = place.resolve(strict=True)
    if root.is_file():
        name = Path(os.path.abspath(place)).name  # noqa: PTH100 - resolve() would give the name of what a link leads to
        _file(found, ScannedFile(name, place, root.stat().st_size))
    else:
        _Walk(found, rules, follow_links, root).folder((root,), root, "")
        found.files.sort(key=lambda each: each.path)
    found.check(place)
    return found


def _file(found: Scan, file: ScannedFile) -> None:
    if reason := fault(file.path):
        found.wrong.append(f"{shown(file.path)} {reason}")
    else:
        found.files.append(file)


@dataclass(frozen=True, slots=True)
class _Walk:
    found: Scan
    rules: Rules
    follow_links: bool
    root: Path

    def folder(self, above: tuple[Path, ...], folder: Path, prefix: str) -> None:
        # *above*: the resolved parent folders, the outermost first.
        names = sorted(_names(folder))
        if not names and prefix:
            self.found.empty.append(prefix)
        for name in names:
            self._entry(above, folder / name, f"{prefix}{name}")

    def _entry(self, above: tuple[Path, ...], place: Path, path: str) -> None:
        is_folder = place.is_dir()
        if self.rules.leave_folder(path) if is_folder else self.rules.leave_file(path):
            if path != IGNORE_FILE:
                self.found.left_out.append(f"{path}/" if is_folder else path)
            return
        if place.is_symlink() and (reason := self._link(above, place, path)):
            self.found.wrong.append(f"{shown(path)} {reason}")
            return
        there = place.stat()
        if stat.S_ISREG(there.st_mode):
            _file(self.found, ScannedFile(path, place, there.st_size))
        elif not stat.S_ISDIR(there.st_mode):
            self.found.wrong.append(f"{shown(path)} is neither a file nor a folder: leave it out (--exclude)")
        elif reason := fault(path):
            # Reported once instead of for each file in it.
            self.found.wrong.append(f"{shown(path)}/ {reason}")
        else:
            self.folder((*above, place.resolve()), place, f"{path}/")

    def _link(self, above: tuple[Path, ...], place: Path, path: str) -> str:
        """
        Why a link cannot be followed; empty when it can.
        """
        try:
            target = place.resolve(strict=True)
        except (OSError, RuntimeError):
            return "is a broken link: fix it, or leave it out (--exclude)"
        if target in above:
            return "is a link to a folder that it is in: leave it out (--exclude)"
        if target.is_relative_to(self.root):
            return ""
        out = f"is a link out of the folder, to {shown(str(target), MOST_TARGET)}"
        # A link to a folder could include any number of foreign files.
        if not target.is_file():
            return f"{out}: copy what it leads to, or leave it out (--exclude)"
        if not self.follow_links:
            return f"{out}: --follow-links sends the file that it leads to"
        self.found.followed.append((path, target))
        return ""


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
