"""
Format detection: formats are detected, and nothing is rejected for resembling one.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cdn.model.formats import HEAD_BYTES, Inspection, inspect
from services.cdn.tests.model_files import GRAPH, ONNX, field, framed, safetensors
from services.chassis.errors import InvalidArgument
from tests.examples import examples

_DOWNLOADS = Path(__file__).resolve().parents[3] / ".modelyard" / "downloads"
LEGACY_TORCH = 0x1950A86A20F9469CFC6C

#: Examples of each property; all of them in `make check-properties`.
EXAMPLES = examples(400)
# Generating one takes twenty times as long as inspecting it.
HEADERS = examples(160)


def seen(data: bytes, media_type: str = "") -> Inspection:
    """
    The inspection of a whole file.
    """
    return inspect(data[:HEAD_BYTES], len(data), media_type)


def zipped(*names: str) -> bytes:
    """
    A zip with the entries' sizes after their bytes, as written by PyTorch.
    """

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    target = Pipe()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return target.getvalue()


PICKLES = {
    **{f"protocol {protocol}": pickle.dumps(OrderedDict(a=[1, 2]), protocol) for protocol in (2, 3, 4, 5)},
    "no frame": pickle.dumps(None, 4),
    "one large text": pickle.dumps("x" * (HEAD_BYTES + 10), 2),
    "torch, old": pickle.dumps(LEGACY_TORCH, 2) + pickle.dumps(1001, 2) + os.urandom(100),
    "torch": zipped("model/data.pkl", "model/version", "model/data/0"),
    "torch, not first": zipped("model/byteorder", "model/data/0", "model/data.pkl"),
    "TorchScript": zipped("model/code/__torch__.py", "model/constants.pkl"),
    "cut": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R",
    "broken behind the call": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R\xff\xff",
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES.keys())
def test_pickles(data: bytes) -> None:
    """
    Pickles are detected, alone and in PyTorch's files.
    """
    assert seen(data) == Inspection("PICKLE")


def test_pointers() -> None:
    """
    A git-lfs pointer is stored as text, with a warning.
    """
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4976698672\n"
    found = seen(pointer)
    assert (found.format, len(found.warnings)) == ("TEXT", 1)
    assert "git-lfs" in found.warnings[0]
    assert not seen(b"About " + pointer).warnings


NOT_PICKLES = {
    "empty": b"\x80\x02.",
    "no opcode": b"\x80\x02\xff\xff\xff\xff",
    "protocol 6": b"\x80\x06" + pickle.dumps([1], 5)[2:],
    "a frame past the end": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"K\x01.",
    "an argument past the end": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a zip of other things": zipped("data.pkl.txt", "notes/readme.md"),
    "the start of a zip": b"PK\x03\x04",
}


@pytest.mark.parametrize("data", NOT_PICKLES.values(), ids=NOT_PICKLES.keys())
def test_not_pickles(data: bytes) -> None:
    """
    Bytes that only begin like a pickle are not detected as one.
    """
    assert seen(data).format != "PICKLE"


def test_onnx() -> None:
    """
    A model is detected by its fields, even if its graph is larger than the head.
    """
    assert seen(ONNX) == Inspection("ONNX")
    large = field(1, 8) + field(7, GRAPH + field(5, field(9, bytes(HEAD_BYTES)))) + field(8, b"")
    assert seen(large) == Inspection("ONNX")


NOT_ONNX = {
    "no graph": field(1, 8) + field(2, b"somebody"),
    "no version": field(7, GRAPH),
    "a version of another world": field(1, 2023) + field(7, GRAPH),
    "an empty graph": field(1, 8) + field(7, b""),
    "a graph that is none": field(1, 8) + field(7, b"not a message"),
    "an unknown field": ONNX + field(99, 1),
    "a field of another type": field(1, 8) + field(2, 5) + field(7, GRAPH),
    "two graphs": ONNX + field(7, GRAPH),
    "a producer that is no text": field(1, 8) + field(2, b"\xff") + field(7, GRAPH),
    "cut": ONNX[:-1],
    "a number without end": field(1, 8) + b"\x3a" + b"\xff" * 20,
    "no end of fields": ONNX + field(8, b"") * 30_000,
}


@pytest.mark.parametrize("data", NOT_ONNX.values(), ids=NOT_ONNX.keys())
def test_not_onnx(data: bytes) -> None:
    """
    Other messages and broken models are not detected as models.
    """
    assert seen(data) == Inspection()


@pytest.mark.parametrize("version", [b"\3\0\0\0", b"\0\0\0\3"], ids=["little", "big"])
def test_gguf(version: bytes) -> None:
    """
    GGUF is detected in both byte orders.
    """
    assert seen(b"GGUF" + version + bytes(16)) == Inspection("GGUF")


def test_not_gguf() -> None:
    """
    The magic number alone does not make a file GGUF.
    """
    assert seen(b"GGUF is a format of files").format == "TEXT"
    assert seen(b"GGUF\3\0\0\0").format == ""


@pytest.mark.parametrize(
    ("data", "media_type", "text"),
    [
        ("grün".encode(), "", True),
        ("grün".encode(), "application/octet-stream", True),
        ("grün".encode(), "text/plain; charset=utf-8", True),
        (b'{"a": 1}', "application/json", True),
        (b"<svg/>", "image/svg+xml", True),
        (b"plain", "image/png", False),
        (b"", "text/plain", False),
        (b"a\0b", "text/plain", False),
        ("grün".encode("latin-1"), "text/plain", False),
        ("grün".encode()[:3], "text/plain", False),
        (b"1\x012\n", "text/csv", True),
        (b"1\x012\n", "", False),
    ],
)
def test_text(data: bytes, media_type: str, text: bool) -> None:
    """
    Text is valid UTF-8 unless declared otherwise; without a declaration it also has no control characters.
    """
    assert seen(data, media_type) == Inspection("TEXT" if text else "")


def test_text_cut_by_the_head() -> None:
    """
    A character that is split at the end of the head does not make a file binary.
    """
    assert seen("é".encode() * HEAD_BYTES + b"x", "text/plain").format == "TEXT"
    assert seen(b"x" + "é".encode() * HEAD_BYTES, "text/plain").format == "TEXT"


INNOCENT = {
    "JSON whose ninth character is a brace": b'{"ab": [{"c": 1}]}',
    "JSON behind its length": framed(b'{"event": "start", "at": 5}'),
    "several of them": framed(b'{"event": 1}') + framed(b'{"event": 2}'),
    "64-bit integers, 123 second": struct.pack("<4q", 5, 123, 7, 8),
    "64-bit integers that begin like an object": struct.pack("<4q", 500, 8827, 7, 8),
    "a header that is too long": (100_000_001).to_bytes(8, "little") + b'{"a":1}',
    "a header that is no object": framed(b"[1, 2]"),
    "nothing": b"",
    "seven bytes": b"\2\0\0\0\0\0\0",
    "a length alone": (2).to_bytes(8, "little"),
}


@pytest.mark.parametrize("data", INNOCENT.values(), ids=INNOCENT.keys())
def test_innocent(data: bytes) -> None:
    """
    Bytes that resemble a safetensors file by chance are neither rejected nor detected as one.
    """
    assert seen(data).format in ("", "TEXT")


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_real_files(kind: str) -> None:
    """
    Files made by other tools are detected, and the index gives their tensors.
    """
    files = list(_DOWNLOADS.glob(f"*/*silero*.{kind}"))
    if not files:
        pytest.skip("examples/weights.py has not fetched it here")
    data = files[0].read_bytes()
    found = seen(data)
    assert found.format == kind.upper()
    if found.tensors is not None:
        assert sum(tensor.size_bytes for tensor in found.tensors.tensors) == found.parameter_count * 4
        assert any(tensor.name == "conv1.weight" for tensor in found.tensors.tensors)


fuzz = st.binary(max_size=200)
starts = st.sampled_from(
    [
        b"",
        b"GGUF",
        b"\x80\x02",
        b"\x80\x04\x95",
        b"PK\x03\x04",
        ONNX,
        field(1, 8),
        framed(b"{}"),
        b'\x20\0\0\0\0\0\0\0{"',
    ]
)
texts = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries({"dtype": values, "shape": values, "data_offsets": values})
headers = st.dictionaries(st.one_of(texts, st.just("__metadata__")), entries | values, max_size=3)


def outcome(head: bytes, size: int, media_type: str) -> Inspection | InvalidArgument:
    """
    The inspection of a file, or its rejection.
    """
    try:
        return inspect(head, size, media_type)
    except InvalidArgument as error:
        return error


@given(start=starts, rest=fuzz, more=st.integers(0, 2**40), media_type=st.sampled_from(["", "text/plain", "a/b"]))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes(start: bytes, rest: bytes, more: int, media_type: str) -> None:
    """
    Any bytes give an inspection that can be stored, or a rejection.
    """
    found = outcome(start + rest, len(start + rest) + more, media_type)
    if isinstance(found, InvalidArgument):
        assert found.reason == "SAFETENSORS_INVALID"
    else:
        assert Inspection.decode(found.encode()) == found


@given(header=headers, size=st.integers(0, 20))
@settings(max_examples=HEADERS, deadline=None)
def test_any_header(header: dict[str, object], size: int) -> None:
    """
    Any header gives an inspection, or a rejection.
    """
    data = safetensors(header, size)
    found = outcome(data, len(data), "")
    if isinstance(found, InvalidArgument):
        assert found.reason == "SAFETENSORS_INVALID"
        assert found.message.encode()
    else:
        assert found.format in ("", "SAFETENSORS")


@pytest.mark.parametrize("data", [b"", b"not zlib", Inspection("ONNX").encode()[:-1]])
def test_damaged_inspections(data: bytes) -> None:
    """
    A damaged inspection is rejected.
    """
    with pytest.raises(ValueError, match="not a stored inspection"):
        Inspection.decode(data)
