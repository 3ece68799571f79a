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

# Ours: no version has such names.
_ALWAYS = [".modelyard*"]
# A version is for ever, and many read it: a secret that went in is lost. What is left out by mistake is told, and can
# be pushed next time.
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
    What is left out. As in a .gitignore, the last pattern that matches counts, ``!`` takes back, and nothing below a
    folder that is left out comes back.

    Args:
        lines: patterns of what is left out, in the syntax of .gitignore.
        include: patterns of the only files that are sent; none for all.

    Raises:
        RefusedError: a pattern is none.
    """

    def __init__(self, lines: Sequence[str] = (), include: Sequence[str] = ()) -> None:
        self._leave = _spec(lines)
        self._include = _spec(include) if include else None

    @classmethod
    def of(
        cls, folder: Path, *, defaults: bool = True, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> Rules:
        """
        The rules for *folder*: the usual ones, those of its .modelyardignore, and what the command line adds.

        Raises:
            OSError: the .modelyardignore cannot be read.
            RefusedError: it is not UTF-8, or a pattern is none.
        """
        file = folder / IGNORE_FILE
        try:
            own = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
        except UnicodeDecodeError as error:
            raise RefusedError(f"{file} is not UTF-8: byte {error.start} cannot be read") from None
        return cls([*_ALWAYS, *(DEFAULTS if defaults else ()), *own, *exclude], include)

    def leave_folder(self, path: str) -> bool:
        """
        Whether a folder is left out with everything in it.
        """
        return self._leave.match_file(f"{path}/")

    def leave_file(self, path: str) -> bool:
        """
        Whether a file is left out.
        """
        return self._leave.match_file(path) or (self._include is not None and not self._include.match_file(path))


def _spec(lines: Sequence[str]) -> pathspec.GitIgnoreSpec:
    for line in lines:
        try:
            pathspec.GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:
            raise RefusedError(f"{line!r} is not a pattern as in a .gitignore: {error}") from None
    return pathspec.GitIgnoreSpec.from_lines(lines)
