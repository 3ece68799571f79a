"""
The files that pulls have written into a folder, to distinguish them from the user's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelyard.cli.paths import leads_out
from modelyard.paths import fault
from modelyard.transfer.upload_source import digest

#: A reserved name: versions cannot contain it, and push excludes it.
STATE_FILE = ".modelyard-pulled.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PullState:
    """
    The digests of the files that pulls wrote, by path.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._place = root / STATE_FILE
        self._files = self._load()

    def add(self, files: Mapping[str, str]) -> None:
        """
        Record files before they are written, so that those of an interrupted pull are known.

        Raises:
            OSError: it cannot be written.
        """
        self._save({**self._files, **files})

    def keep(self, paths: Iterable[str]) -> None:
        """
        Forget all files except *paths*.

        Raises:
            OSError: it cannot be written.
        """
        self._save({path: self._files[path] for path in paths if path in self._files})

    def others(self, wanted: Iterable[str]) -> list[str]:
        """
        The existing files of earlier pulls that are not *wanted*.
        """
        known = set(wanted)
        return sorted(path for path in self._files if path not in known and self._is_file(path))

    def changed(self, paths: Iterable[str]) -> list[str]:
        """
        The *paths* whose bytes have changed since a pull wrote them.

        Raises:
            OSError: one cannot be read.
        """
        return [path for path in paths if self._digest(path) != self._files[path]]

    def remove(self, paths: Iterable[str]) -> None:
        """
        Delete files, and the folders that become empty.

        Raises:
            OSError: one cannot be removed.
        """
        for path in paths:
            place = self._root / path
            place.unlink(missing_ok=True)
            for folder in place.parents:
                if folder == self._root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _digest(self, path: str) -> str:
        with (self._root / path).open("rb") as file:
            return digest(file, lambda _done, _total: None)

    def _is_file(self, path: str) -> bool:
        place = self._root / path
        return place.is_file() and not place.is_symlink()

    def _load(self) -> dict[str, str]:
        try:
            text = "" if self._place.is_symlink() else self._place.read_text(encoding="utf-8")
            found = json.loads(text)["files"]
            pairs = [(str(path), str(sha256)) for path, sha256 in found.items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        # Another user may have written it: paths outside of the folder are dropped.
        return {
            path: sha256
            for path, sha256 in pairs
            if not fault(path) and not leads_out(self._root, path) and _DIGEST.fullmatch(sha256)
        }

    def _save(self, files: Mapping[str, str]) -> None:
        if files == self._files and self._place.exists():
            return
        self._files = dict(files)
        # Several pulls may write it at once.
        handle, name = tempfile.mkstemp(prefix=f"{STATE_FILE}.", dir=self._root)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"files": self._files}, file, ensure_ascii=False, indent=0)
            Path(name).replace(self._place)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
