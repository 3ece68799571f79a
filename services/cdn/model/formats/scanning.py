"""
Security scan: finds the code that loading a file would execute, without loading it.

The opcodes of pickles are read by picklescan, whose lists say which names are harmless and which execute arbitrary code
(github.com/mmaitre314/picklescan); a name on neither list is suspicious (docs/adr/0043). Containers of pickles are
detected by their bytes, not by their names: zips by the directory at their end, as readers do (APPNOTE.TXT, 4.3.16),
tars, NumPy arrays of objects, and each of them within a zip or a tar. Keras' Lambda layers contain code, too.
"""

from __future__ import annotations

import io
import logging
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from picklescan.relaxed_zipfile import RelaxedZipFile
from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from services.cdn.model.formats import pickles

# It logs each name that it finds, and the names are untrusted input.
logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)

#: Bytes that are read of a file, and of one pickle, at most. The rest is arrays, or the scan is reported as incomplete.
MOST_BYTES, MOST_PICKLE_BYTES = 64 << 20, 16 << 20
MOST_SECONDS = 10.0
_MOST_AT_ONCE = 8 << 20
_MOST_OPCODES = 300_000
_MOST_ENTRIES = 500
_MOST_DEPTH = 3
_MOST_NAMES, _LONGEST_NAME = 100, 200
_BLOCK = 64 * 1024
_LAMBDA = re.compile(rb'"class_name":\s*"Lambda"')
_END_OF_ZIP = b"PK\x05\x06"
#: The end-of-central-directory record of a zip is within these last bytes: its length and the longest comment.
_TAIL_BYTES = 22 + 65535
#: Names of arrays and text, which no reader unpickles: most entries of large files.
_NO_PICKLE = re.compile(
    r"(?:^|/)data/[0-9]+$|\.(?:txt|md|py|ya?ml|json|jsonl|safetensors|gguf|onnx|png|jpe?g|csv|tsv)$", re.IGNORECASE
)
#: The magic number of PyTorch's legacy format, and the number of consecutive pickles in it (torch/serialization.py).
_LEGACY_TORCH, _LEGACY_PICKLES = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"), 5


@dataclass(frozen=True, slots=True)
class Scan:
    """
    The result of a scan.

    Args:
        verdict: "SAFE" if loading it calls only names that are known to be harmless, "SUSPICIOUS" if some are unknown
            or the scan is incomplete, "DANGEROUS" if it executes arbitrary code; empty if it contains no code.
        loads: the names that it calls, as module.name, the most dangerous first.
        whole: whether the whole file was scanned.
        pickled: whether it contains a pickle.
    """

    verdict: str = ""
    loads: tuple[str, ...] = ()
    whole: bool = True
    pickled: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """
        Warnings for users; none if it is harmless.
        """
        names = ", ".join(self.loads[:5]) + (", …" if len(self.loads) > 5 else "")
        if self.verdict == "DANGEROUS":
            return (f"loading it runs code of whoever made it: {names}",)
        if self.verdict != "SUSPICIOUS":
            return ()
        if not self.loads:
            return ("loading it can run code of whoever made it, and it could not be looked at whole",)
        return (f"loading it can run code of whoever made it: {names}",)


class _Spent(Exception):  # noqa: N818 - an outcome
    """
    A limit of the scan is reached.
    """


@dataclass(slots=True)
class _Budget:
    bytes: int
    until: float
    entries: int = _MOST_ENTRIES

    def take(self, size: int) -> None:
        if size > min(self.bytes, _MOST_AT_ONCE) or time.monotonic() > self.until:
            raise _Spent
        self.bytes -= size


class _Ranges(io.RawIOBase):
    """
    A file whose ranges are fetched on demand.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, budget: _Budget) -> None:
        self._read, self._size, self._budget, self._place = read, size, budget, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._size - self._place))
        if not size:
            return 0
        self._budget.take(size)
        data = self._read(self._place, size)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class _Opcodes(io.BytesIO):
    """
    A stream that ends after too many opcodes, or after too long. Each opcode begins with a read of one byte.
    """

    def __init__(self, data: bytes, until: float) -> None:
        super().__init__(data)
        self._left, self._until = _MOST_OPCODES, until

    @property
    def spent(self) -> bool:
        """
        Whether it ended early.
        """
        return self._left <= 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size == 1:
            self._left -= 1
            if not self._left % 1000 and time.monotonic() > self._until:
                self._left = 0
        return b"" if self.spent else super().read(size)


def scan(read: Callable[[int, int], bytes], size_bytes: int, *, seconds: float = MOST_SECONDS) -> Scan:
    """
    Scan a file. It takes up to *seconds*, and about ten MB of memory: run it in a thread, and limit the number of
    concurrent calls.

    Args:
        read: reads a range, given offset and length.
        size_bytes: of the file.
        seconds: maximum duration.

    Raises:
        Exception: what *read* raises.
    """
    budget = _Budget(MOST_BYTES, time.monotonic() + seconds)
    scanner = _Scanner(budget)
    try:
        scanner.look(io.BufferedReader(_Ranges(read, size_bytes, budget), _BLOCK), size_bytes, 0)
    except _Spent:
        scanner.whole = False
    return scanner.result()


class _Scanner:
    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._found: dict[str, SafetyLevel] = {}
        self._has_code = False
        self.whole = True

    def result(self) -> Scan:
        """
        The result so far.
        """
        order = [SafetyLevel.Dangerous, SafetyLevel.Suspicious, SafetyLevel.Innocuous]
        names = sorted(self._found, key=lambda name: (order.index(self._found[name]), name))
        levels = set(self._found.values())
        if SafetyLevel.Dangerous in levels:
            verdict = "DANGEROUS"
        elif SafetyLevel.Suspicious in levels or not self.whole:
            verdict = "SUSPICIOUS"
        else:
            verdict = "SAFE" if self._has_code else ""
        return Scan(verdict, tuple(names[:_MOST_NAMES]), self.whole, self._has_code)

    def look(self, file: IO[bytes], size: int, depth: int) -> None:
        """
        Scan a file and, if it is an archive, its entries.
        """
        head = file.read(_BLOCK)
        if head.startswith(b"\x93NUMPY"):
            self._array(file, head)
        elif pickles.is_raw(head, size) or pickles.is_text(head):
            self._pickle(file)
        elif head.startswith(b"\x89HDF\r\n\x1a\n"):
            self._keras(head + file.read(_MOST_AT_ONCE - _BLOCK))
        elif head[257:262] == b"ustar":
            self._inside(self._tar(file), depth)
        # Readers find a zip by its end, whatever the file begins with. Seeking to the end of an entry reads all of it.
        if depth and size > _MOST_AT_ONCE:
            self.whole = self.whole and not head.startswith(b"PK")
        elif size >= 22 and self._ends_as_zip(file, size):
            self._inside(self._zip(file), depth)

    def _pickle(self, file: IO[bytes], offset: int = 0) -> None:
        file.seek(offset)
        data = b""
        while len(data) < MOST_PICKLE_BYTES and (piece := file.read(min(1 << 20, MOST_PICKLE_BYTES - len(data)))):
            data += piece
        cut = len(data) == MOST_PICKLE_BYTES and bool(file.read(1))
        self._has_code = True
        opcodes = _Opcodes(data, self._budget.until)
        for _ in range(_LEGACY_PICKLES if data.startswith(_LEGACY_TORCH) else 1):
            one = data.startswith(_LEGACY_TORCH)
            try:
                found = scan_pickle_bytes(opcodes, "", multiple_pickles=not one)
            except Exception:  # noqa: BLE001 - a reader may execute what picklescan cannot read
                self.whole = False
                return
            for each in found.globals:
                self._add(f"{each.module}.{each.name}", each.safety)
        if opcodes.spent or (cut and opcodes.tell() >= len(data) - 1):
            self.whole = False

    def _add(self, name: str, level: SafetyLevel) -> None:
        self._has_code = True
        if len(self._found) < 10 * _MOST_NAMES or level is SafetyLevel.Dangerous:
            self._found[_shown(name)] = level

    def _array(self, file: IO[bytes], head: bytes) -> None:
        # numpy.lib.format: a version, the length of a header in two bytes or four, the header.
        width = 2 if head[6:7] == b"\x01" else 4
        start = 8 + width
        end = start + int.from_bytes(head[8:start], "little")
        if re.search(rb"['\"|]O", head[start:end]):
            self._pickle(file, end)

    def _keras(self, data: bytes) -> None:
        if _LAMBDA.search(data):
            self._add("keras.layers.Lambda", SafetyLevel.Suspicious)

    def _ends_as_zip(self, file: IO[bytes], size: int) -> bool:
        file.seek(max(0, size - _TAIL_BYTES))
        return _END_OF_ZIP in file.read(_TAIL_BYTES)

    def _zip(self, file: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]:
        file.seek(0)
        try:
            archive = RelaxedZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError):
            # Mostly bytes that resemble the end of a zip by chance.
            return
        for entry in archive.infolist():
            yield entry.filename, entry.file_size, lambda entry=entry: archive.open(entry)  # type: ignore[misc]

    def _tar(self, file: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                if entry.isfile():
                    yield entry.name, entry.size, lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]

    def _inside(self, entries: Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]], depth: int) -> None:
        try:
            for name, size, opened in entries:
                is_config = name.rpartition("/")[2] == "config.json"
                if not size or (_NO_PICKLE.search(name) and not is_config):
                    continue
                if depth >= _MOST_DEPTH or not self._budget.entries:
                    raise _Spent
                self._budget.entries -= 1
                self._entry(opened, size, depth, is_config=is_config)
        except (tarfile.TarError, EOFError, ValueError, OverflowError):
            self.whole = False

    def _entry(self, opened: Callable[[], IO[bytes] | None], size: int, depth: int, *, is_config: bool) -> None:
        try:
            with opened() or io.BytesIO() as file:
                if is_config:
                    self._keras(file.read(_MOST_AT_ONCE))
                elif file.seekable():
                    self.look(cast("IO[bytes]", _Metered(file, self._budget)), size, depth + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError):
            # Encrypted, or compressed with a method that is not supported here; a reader may support it.
            self.whole = False


class _Metered(io.BufferedIOBase):
    """
    An entry of an archive, whose decompressed size counts against the budget.
    """

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file, self._budget = file, budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = _MOST_AT_ONCE if size is None or size < 0 else size
        data = self._file.read(min(wanted, _MOST_AT_ONCE))
        self._budget.take(len(data))
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _shown(name: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in name[:_LONGEST_NAME])
