"""
Ignore rules: which files of a folder are excluded from a version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pathspec

from modelyard.cli.errors import RefusedError

#: In the folder that is pushed, with patterns as in a .gitignore.
IGNORE_FILE = ".modelyardignore"

# Reserved: versions cannot contain such names.
_ALWAYS = [".modelyard*"]
# Versions are immutable and widely readable: a published secret is compromised. Files that are excluded by mistake are
# reported, and can be pushed later.
DEFAULTS = """\
.git
.hg
.sl
.jj
.svn
.bzr

__pycache__/
*.py[cod]
.cache/
.ipynb_checkpoints/
.pytest_cache/
.mypy_cache/
.ruff_cache/
.venv/
.DS_Store
._*
Thumbs.db
desktop.ini

.env
.env.*
!.env.example
.netrc
.pypirc
.git-credentials
.ssh/
.aws/
*.pem
*.key
""".splitlines()


class Rules:
    """
    Ignore rules. As in a .gitignore, the last matching pattern decides, ``!`` includes a file again, except below an
    excluded folder.

    Args:
        lines: patterns of excluded files, in the syntax of .gitignore.
        include: patterns of the only files to include; empty for all.

    Raises:
        RefusedError: a pattern is invalid.
    """

    def __init__(self, lines: Sequence[str] = (), include: Sequence[str] = ()) -> None:
        self._leave = _spec(lines)
        self._include = _spec(include) if include else None

    @classmethod
    def of(
        cls, folder: Path, *, defaults: bool = True, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> Rules:
        """
        The rules for *folder*: the defaults, its .modelyardignore, and the patterns of the command line.

        Raises:
            OSError: the .modelyardignore cannot be read.
            RefusedError: it is not UTF-8, or a pattern is invalid.
        """
        file = folder / IGNORE_FILE
        try:
            own = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
        except UnicodeDecodeError as error:
            raise RefusedError(f"{file} is not UTF-8: byte {error.start} cannot be read") from None
        return cls([*_ALWAYS, *(DEFAULTS if defaults else ()), *own, *exclude], include)

    def leave_folder(self, path: str) -> bool:
        """
        Whether a folder is excluded with everything in it.
        """
        return self._leave.match_file(f"{path}/")

    def leave_file(self, path: str) -> bool:
        """
        Whether a file is excluded.
        """
        return self._leave.match_file(path) or (self._include is not None and not self._include.match_file(path))


def _spec(lines: Sequence[str]) -> pathspec.GitIgnoreSpec:
    for line in lines:
        try:
            pathspec.GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:
            raise RefusedError(f"{line!r} is not a pattern as in a .gitignore: {error}") from None
    return pathspec.GitIgnoreSpec.from_lines(lines)
