"""
Incomplete files: git-lfs pointers, and models whose external weights are missing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from modelyard.cli.folders import ScannedFile
from modelyard.paths import shown

# github.com/git-lfs/git-lfs, docs/spec.md, "The Pointer": less than 1,024 bytes, the version first.
_LFS, _MOST_LFS = b"version https://git-lfs.github.com/spec/", 1024
# onnx/onnx.proto: the graph of a model, its initializers, and of each of those where its bytes are.
_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Bounds the work on a file that consists of empty fields.
_MOST_FIELDS = 1_000_000
_LONGEST = 4096


def warnings(files: Sequence[ScannedFile]) -> list[str]:
    """
    Warnings about incomplete files of a version: git-lfs pointers, and ONNX models whose external weights are missing.

    Args:
        files: all files of the version.

    Raises:
        OSError: one cannot be read.
    """
    paths = {each.path for each in files}
    found = []
    for each in files:
        if each.size_bytes < _MOST_LFS:
            with each.place.open("rb") as file:
                if file.read(len(_LFS)) == _LFS:
                    found.append(f"{shown(each.path)} is a git-lfs pointer and not the file: run git lfs pull first")
        elif each.path.lower().endswith(".onnx"):
            with each.place.open("rb") as file:
                found += [f"{shown(each.path)} {reason}" for reason in _onnx(each.path, paths, file, each.size_bytes)]
    return found


def _onnx(path: str, paths: set[str], file: BinaryIO, size_bytes: int) -> Iterator[str]:
    for location in dict.fromkeys(external_data(file, size_bytes)):
        parts = location.replace("\\", "/").split("/")
        if location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            yield f'names weights outside of its folder, which readers refuse: "{shown(location)}"'
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(path), *parts))
        if name not in paths:
            yield f'names weights that are not among the files: "{shown(location)}"'


def external_data(file: BinaryIO, size_bytes: int) -> list[str]:
    """
    The files that hold the initializers of an ONNX model (ExternalData.md in github.com/onnx/onnx). Walks the fields of
    the file and skips its weights.

    Args:
        file: the model.
        size_bytes: size of the file.

    Returns:
        The values of `location`, unchanged; fewer when the file is not a complete ONNX model.
    """
    return [location for location in _Fields(file).locations(size_bytes) if location]


class _Fields:
    """
    The fields of messages of protocol buffers in a file (protobuf.dev/programming-guides/encoding).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MOST_FIELDS

    def locations(self, size: int) -> Iterator[str]:
        try:
            for graph in self._messages((0, size), _GRAPH):
                for initializer in self._messages(graph, _INITIALIZER):
                    for entry in self._messages(initializer, _EXTERNAL_DATA):
                        yield self._location(entry)
        except (ValueError, EOFError):
            return

    def _location(self, entry: tuple[int, int]) -> str:
        texts = dict.fromkeys((_KEY, _VALUE), "")
        for number, kind, start, end in self._fields(*entry):
            if kind == _LENGTH and number in texts and end - start <= _LONGEST:
                self._file.seek(start)
                texts[number] = self._file.read(end - start).decode(errors="replace")
        return texts[_VALUE] if texts[_KEY] == "location" else ""

    def _messages(self, within: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
        for number, kind, start, end in self._fields(*within):
            if number == wanted and kind == _LENGTH:
                yield start, end

    def _fields(self, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """
        Number and type of each field, with the offsets at which its content begins and ends.
        """
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            self._file.seek(place)
            key = self._varint()
            start = self._file.tell()
            kind = key & 7
            if kind == _VARINT:
                self._varint()
                stop = self._file.tell()
            elif kind == _LENGTH:
                size = self._varint()
                start = self._file.tell()
                stop = start + size
            elif kind in {_FIXED64, _FIXED32}:
                stop = start + (8 if kind == _FIXED64 else 4)
            else:
                raise ValueError("not a field")
            if stop > end:
                raise ValueError("past the end")
            yield key >> 3, kind, start, stop
            place = stop

    def _varint(self) -> int:
        value = 0
        for shift in range(10):
            byte = self._file.read(1)
            if not byte:
                raise EOFError
            value |= (byte[0] & 0x7F) << 7 * shift
            if byte[0] < 0x80:
                return value
        raise ValueError("not a varint")
