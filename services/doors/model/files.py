"""
The files of a version as a tree: the registry stores paths, clients of the Hub and of MLflow see folders.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

# Length of the text that stands for a file in LFS.
_POINTER_BYTES = 134


@dataclass(frozen=True, slots=True)
class File:
    """
    A file of a version.

    Args:
        path: in the version.
        sha256: of its content, in hexadecimal.
        size: in bytes.
        media_type: of its content.
    """

    path: str
    sha256: str
    size: int
    media_type: str

    @property
    def oid(self) -> str:
        """
        What stands for the Git object: 40 hexadecimal digits of the content.
        """
        return self.sha256[:40]

    def as_tree_entry(self) -> dict[str, object]:
        """
        As listed in a tree.
        """
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": _POINTER_BYTES}
        return {"type": "file", "oid": self.oid, "size": self.size, "path": self.path, "lfs": lfs}

    def as_sibling(self, *, blobs: bool) -> dict[str, object]:
        """
        As listed with its repository.
        """
        if not blobs:
            return {"rfilename": self.path}
        lfs = {"sha256": self.sha256, "size": self.size, "pointerSize": _POINTER_BYTES}
        return {"rfilename": self.path, "size": self.size, "blobId": self.oid, "lfs": lfs}


@dataclass(frozen=True)
class Tree:
    """
    The files of a version.

    Args:
        files: in the order of their paths' parts: "a/b" comes before "a-b".
    """

    files: Sequence[File]

    @classmethod
    def of(cls, files: Iterable[File]) -> Tree:
        """
        The tree of files in any order.
        """
        return cls(sorted(files, key=lambda file: _key(file.path)))

    @cached_property
    def _paths(self) -> list[list[str]]:
        return [_key(file.path) for file in self.files]

    def file(self, path: str) -> File | None:
        """
        The file with a path.
        """
        key = _key(path)
        at = bisect_left(self._paths, key)
        return self.files[at] if at < len(self.files) and self._paths[at] == key else None

    def is_folder(self, path: str) -> bool:
        """
        Whether files are below a path; the empty one is the root.
        """
        first, end = self._bounds(path)
        return path == "" or first < end

    def entries(self, folder: str, *, recursive: bool, after: str = "") -> Iterator[dict[str, object]]:
        """
        What is in a folder: files and folders, in the order of their paths.

        Args:
            folder: its path, without a slash at its end; empty for the root.
            recursive: whether what is in folders below is included.
            after: the path after which to begin.
        """
        start = f"{folder}/" if folder else ""
        at, end = self._bounds(folder)
        told: set[str] = set()
        begin = _key(after)
        if after:
            at = max(at, bisect_right(self._paths, begin))
        while at < end:
            file = self.files[at]
            parts = file.path[len(start) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                path = start + "/".join(parts[:depth])
                if path not in told:
                    told.add(path)
                    # The first files may be in folders that come before.
                    if _key(path) > begin:
                        yield self.folder_entry(path)
            if recursive or len(parts) == 1:
                yield file.as_tree_entry()
                at += 1
            else:
                _, at = self._bounds(start + parts[0])

    def folder_entry(self, path: str) -> dict[str, object]:
        """
        A folder as listed in a tree.
        """
        first, end = self._bounds(path)
        # The content of a folder is that of its files.
        state = hashlib.sha1(path.encode(), usedforsecurity=False)
        state.update(f"\n{end - first}\n{self.files[first].sha256 if first < end else ''}".encode())
        return {"type": "directory", "oid": state.hexdigest(), "size": 0, "path": path}

    def _bounds(self, folder: str) -> tuple[int, int]:
        """
        Where the files below a folder begin and end.
        """
        if not folder:
            return 0, len(self.files)
        key = _key(folder)
        # Nothing sorts between a name and the same with the lowest character.
        return bisect_right(self._paths, key), bisect_left(self._paths, [*key[:-1], f"{key[-1]}\0"])


def _key(path: str) -> list[str]:
    return path.split("/") if path else []
