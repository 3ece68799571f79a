"""
Security scans: code is found wherever it is in a file, and harmless files raise no warning.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.cdn.model.formats import Inspection, Scan, inspect, scan, scanning
from services.cdn.model.formats.scanning import MOST_BYTES, MOST_PICKLE_BYTES

SYSTEM = f"{os.system.__module__}.system"
_DOWNLOADS = Path(__file__).resolve().parents[3] / ".modelyard" / "downloads"
LEGACY = 0x1950A86A20F9469CFC6C


class Evil:
    """
    Executes a command when it is unpickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def look(data: bytes) -> Scan:
    """
    Scan a whole file.
    """
    return scan(lambda offset, size: data[offset : offset + size], len(data))


def zipped(*entries: tuple[str, bytes], before: bytes = b"", packed: bool = False) -> bytes:
    """
    A zip.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return before + file.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    """
    A tar.
    """
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def array(data: bytes, descr: str = "|O") -> bytes:
    """
    A NumPy array with this content after its header.
    """
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def legacy(thing: object) -> bytes:
    """
    PyTorch's legacy format, without the arrays at its end.
    """
    things: list[object] = [LEGACY, 1001, {}, thing, []]
    return b"".join(pickle.dumps(each, 2) for each in things)


EVIL = pickle.dumps(Evil(), 2)
HIDDEN: dict[str, bytes] = {
    **{f"protocol {protocol}": pickle.dumps([1, Evil()], protocol) for protocol in range(6)},
    "protocol 0 by hand": b"cposix\nsystem\n(S'true'\ntR.",
    "protocol 0, broken behind the call": b"cposix\nsystem\n(S'true'\ntR\xff\xff",
    "INST": b"(S'true'\niposix\nsystem\n.",
    "a second pickle": pickle.dumps(1, 2) + EVIL,
    "torch": zipped(("model/data.pkl", EVIL)),
    "torch behind 9 MB": zipped(("model/data/0", bytes(9 << 20)), ("model/data.pkl", EVIL)),
    "torch behind four bytes": zipped(("model/data.pkl", EVIL), before=b"\0\0\0\0"),
    "torch behind a picture": zipped(("model/data.pkl", EVIL), before=b"\x89PNG\r\n" + bytes(100_000)),
    "packed": zipped(("model/data.pkl", EVIL), packed=True),
    "by no name": zipped(("model/weights", EVIL)),
    "a zip in a zip": zipped(("a.zip", zipped(("data.pkl", EVIL)))),
    "a tar": tarred("model/pickle", EVIL),
    "a zip in a tar": tarred("a.bin", zipped(("data.pkl", EVIL))),
    "an array of objects": array(EVIL),
    "arrays in a zip": zipped(("a.npy", array(EVIL))),
    "torch, old": legacy(Evil()) + os.urandom(1000),
}


@pytest.mark.parametrize("data", HIDDEN.values(), ids=HIDDEN)
def test_what_runs_a_command_is_found(data: bytes) -> None:
    """
    Wherever a pickle is and however it is encoded, its calls are reported, with a warning.
    """
    found = look(data)
    assert (found.verdict, found.loads[0]) == ("DANGEROUS", "posix.system")
    seen = inspect(data[: 8 << 20], len(data), "").scanned(found)
    assert seen.format == "PICKLE"
    assert seen.warnings == ("loading it runs code of whoever made it: posix.system",)


HONEST: dict[str, bytes] = {
    "plain": pickle.dumps({"a": [1, 2.5, "x", None, b"y"]}),
    "a dictionary": pickle.dumps(OrderedDict(a=1), 2),
    "torch": zipped(("model/data.pkl", pickle.dumps(OrderedDict(), 2)), ("model/data/0", bytes(1000))),
    "torch, old": legacy(OrderedDict()) + bytes(1000),
}


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_what_is_honest_raises_no_alarm(data: bytes) -> None:
    """
    Pickles that call only harmless names are SAFE and have no warning.
    """
    found = look(data)
    assert (found.verdict, found.warnings) == ("SAFE", ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"in\nout\nover\n",
        b"config\nvalue\n(a list) of things.\n",
        b"import os\nimport sys\n",
        b"(a\nb\n",
        b"PK\x05\x06 is how a zip ends",
        b'{"class_name": "Lambda"}',
        zipped(("notes.txt", b"cposix\nsystem\n(S'true'\ntR."), ("code.py", b"import os\n")),
        zipped(("model/data/0", EVIL)),
        array(bytes(8), "<f8"),
        tarred("readme.md", b"# A model"),
        os.urandom(1 << 16),
    ],
    ids=range(12),
)
def test_what_runs_nothing_is_no_pickle(data: bytes) -> None:
    """
    Text, archives of text, and numeric arrays are not pickles, whatever they resemble.
    """
    assert look(data) == Scan()
    assert inspect(data, len(data), "").format != "PICKLE"


def test_names_that_nobody_knows() -> None:
    """
    A name on no list is SUSPICIOUS and reported.
    """
    found = look(b"\x80\x02cmy_package.layers\nAttention\n)\x81.")
    assert (found.verdict, found.loads) == ("SUSPICIOUS", ("my_package.layers.Attention",))
    assert found.warnings == ("loading it can run code of whoever made it: my_package.layers.Attention",)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89HDF\r\n\x1a\n" + bytes(500) + b'{"class_name": "Lambda", "config"',
        zipped(("config.json", b'{"layers": [{"class_name":  "Lambda"}]}'), ("model.weights.h5", bytes(100))),
    ],
    ids=["HDF5", "keras"],
)
def test_layers_with_code_of_their_own(data: bytes) -> None:
    """
    Keras' Lambda layers are found in both file formats.
    """
    found = look(data)
    assert (found.verdict, found.loads) == ("SUSPICIOUS", ("keras.layers.Lambda",))


def _nested(depth: int) -> bytes:
    return zipped(("data.pkl", EVIL)) if not depth else zipped(("a.zip", _nested(depth - 1)))


def _bomb() -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.pkl", "w", force_zip64=True) as entry,
    ):
        entry.write(b"\x80\x02X" + struct.pack("<I", MOST_PICKLE_BYTES + (4 << 20)))
        for _ in range((MOST_PICKLE_BYTES >> 20) + 4):
            entry.write(bytes(1 << 20))
    return file.getvalue()


BOUNDED: dict[str, Callable[[], bytes]] = {
    "many opcodes": lambda: b"\x80\x02" + b"N0" * 20_000 + EVIL[2:],
    "deep": lambda: _nested(6),
    "many entries": lambda: zipped(*((f"{number}.bin", b"x") for number in range(2000))),
    "unpacks to more than is read": _bomb,
    "an argument without end": lambda: b"\x80\x02X" + struct.pack("<I", 17 << 20) + bytes(17 << 20) + EVIL[2:],
}


@pytest.mark.parametrize("make", BOUNDED.values(), ids=BOUNDED)
def test_what_takes_too_long_is_suspicious(make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A file that exceeds a limit of the scan is SUSPICIOUS and reported as not completely scanned.
    """
    monkeypatch.setattr(scanning, "_MOST_OPCODES", 20_000)
    found = look(make())
    assert (found.verdict, found.whole) == ("SUSPICIOUS", False)
    assert found.warnings


def test_little_is_read_of_a_large_file() -> None:
    """
    Of a checkpoint of many gigabytes, only the zip directory and the pickle are read.
    """
    size, tail = 1 << 36, zipped(("model/data.pkl", EVIL))
    read = 0

    def part(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        whole = tail[max(0, offset - (size - len(tail))) :][:length] if offset + length > size - len(tail) else b""
        return bytes(length - len(whole)) + whole

    assert scan(part, size).loads == ("posix.system",)
    assert read < 1 << 20 < MOST_BYTES


def test_time_is_bounded() -> None:
    """
    A scan ends at its time limit, with the results so far.
    """
    slow = zipped(*((f"{number}.bin", os.urandom(100_000)) for number in range(50)))

    def part(offset: int, length: int) -> bytes:
        time.sleep(0.02)
        return slow[offset : offset + length]

    assert scan(part, len(slow), seconds=0.1).whole is False


def test_a_file_that_only_begins_like_one() -> None:
    """
    A file that begins like a pickle and in which none is found is not SAFE.
    """
    seen = Inspection("PICKLE").scanned(Scan())
    assert (seen.scan.verdict, len(seen.warnings)) == ("SUSPICIOUS", 1)
