"""
Safetensors files: exact indexes, and rejection of invalid headers.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cdn.model.formats import HEAD_BYTES, Inspection, Tensor, TensorIndex, inspect
from services.cdn.tests.model_files import BITS, framed, safetensors, tensor
from services.chassis.errors import InvalidArgument
from tests.examples import examples


def indexed(data: bytes) -> TensorIndex:
    """
    The index of a safetensors file.
    """
    found = inspect(data[:HEAD_BYTES], len(data), "")
    assert found.format == "SAFETENSORS"
    assert found.tensors is not None
    assert found.parameter_count == found.tensors.parameter_count
    return found.tensors


def refused(data: bytes) -> str:
    """
    Why a file is rejected.
    """
    with pytest.raises(InvalidArgument) as caught:
        inspect(data[:HEAD_BYTES], len(data), "")
    assert caught.value.reason == "SAFETENSORS_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["chunk.data"]
    return caught.value.message


def test_index() -> None:
    """
    Offsets are relative to the start of the file, tensors are ordered by position, metadata is kept.
    """
    header = {"b": tensor(8, 16, [4], "F16"), "__metadata__": {"format": "pt"}, "a": tensor(0, 8, [1, 2])}
    data = safetensors(header, 16, padding=5)
    start = len(data) - 16
    index = indexed(data)
    assert index.tensors == (Tensor("a", "F32", (1, 2), start, 8), Tensor("b", "F16", (4,), start + 8, 8))
    assert index.metadata == {"format": "pt"}
    assert index.parameter_count == 6


def test_stored() -> None:
    """
    Indexes and inspections survive serialization.
    """
    found = inspect(data := safetensors({"ä\n": tensor(0, 4, [])}, 4), len(data), "")
    assert found.tensors is not None
    assert Inspection.decode(found.encode()) == found
    assert TensorIndex.decode(found.tensors.encode()) == found.tensors
    with pytest.raises(ValueError, match="not a stored inspection"):
        TensorIndex.decode(found.tensors.encode()[:-3])


@pytest.mark.parametrize("header", ["{}", '{"__metadata__": {"a": "b"}}', '{"__metadata__": null}', "{ \n}  "])
def test_without_tensors(header: str) -> None:
    """
    A file without tensors is valid.
    """
    assert indexed(framed(header.encode())).tensors == ()


@pytest.mark.parametrize("dtype", BITS)
def test_dtypes(dtype: str) -> None:
    """
    Every element type has its size; sub-byte types must fill whole bytes.
    """
    bits = BITS[dtype]
    assert indexed(safetensors({"a": tensor(0, bits, [2, 4], dtype)}, bits)).parameter_count == 8
    refused(safetensors({"a": tensor(0, bits + 1, [2, 4], dtype)}, bits + 1))
    if bits < 8:
        refused(safetensors({"a": tensor(0, 1, [1], dtype)}, 1))


def test_scalars_and_empty_tensors() -> None:
    """
    A shape without dimensions is one element; a tensor with a dimension of 0 has no bytes, at any position.
    """
    header = {"none": tensor(4, 4, [0, 2**62]), "one": tensor(0, 4, []), "also none": tensor(0, 0, [3, 0])}
    assert [each.name for each in indexed(safetensors(header, 4)).tensors] == ["also none", "one", "none"]


def test_unknown_fields() -> None:
    """
    Unknown fields are ignored, as in the reference implementation.
    """
    assert indexed(safetensors({"a": tensor(0, 4, [1]) | {"note": [1.5, None]}}, 4)).parameter_count == 1


def test_large_headers() -> None:
    """
    A header larger than the inspected head is not indexed, with a warning, but its length is checked.
    """
    padding = b" " * HEAD_BYTES
    data = framed(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}' + padding, b"1")
    found = inspect(data[:HEAD_BYTES], len(data), "")
    assert (found.format, found.tensors) == ("SAFETENSORS", None)
    assert "too large to be checked" in found.warnings[0]
    assert "the header claims" in refused(data[: HEAD_BYTES + 5])


def _raw(text: str, size: int = 4) -> bytes:
    return framed(text.encode(), bytes(size))


@pytest.mark.parametrize("dtype", ["I4", "U4", "C128", "F8_E4M3FN", "MXFP8"])
def test_a_type_that_is_not_known(dtype: str) -> None:
    """
    A file with an unknown element type is stored, with a warning instead of an index; all other rules apply.
    """
    data = safetensors({"a": tensor(0, 8, [4, 4], dtype), "b": tensor(8, 12, [1])}, 12)
    found = inspect(data, len(data), "")
    warning = f"safetensors: no index of its tensors, whose types are new here: {dtype}"
    assert (found.format, found.warnings, found.tensors) == ("SAFETENSORS", (warning,), None)
    refused(safetensors({"a": tensor(0, 8, [4, 4], dtype)}, 9))
    refused(safetensors({"a": tensor(0, 8, [4, 4], dtype), "b": tensor(8, 12, [2])}, 12))


ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
LIES = {
    "a header past the end": (safetensors({"a": tensor(0, 4, [1])}, 0)[:40], "the header claims"),
    "cut JSON": (_raw('{"a":' + ONE), "not JSON"),
    "something behind the JSON": (_raw('{"a":' + ONE + "}}"), "not JSON"),
    "zeros behind the JSON": (_raw('{"a":' + ONE + "}\0\0"), "not JSON"),
    "not UTF-8": (framed(b'{"\xff":' + ONE.encode() + b"}", bytes(4)), "not JSON in UTF-8"),
    "half a surrogate pair": (_raw('{"\\ud800":' + ONE + "}"), "not JSON in UTF-8"),
    "half a pair in the metadata": (_raw('{"__metadata__":{"a":"\\udc00"}}', 0), "valid Unicode"),
    "NaN": (_raw('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":NaN}}'), "NaN is not valid JSON"),
    "deep nesting": (_raw('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "too deeply"),
    "a name twice": (_raw(f'{{"a":{ONE},"a":{ONE}}}'), "duplicate key"),
    "a name twice, written differently": (_raw(f'{{"a":{ONE},"\\u0061":{ONE}}}'), "duplicate key"),
    "a field twice": (_raw('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'), "duplicate key"),
    "a number of many digits": (
        _raw('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,4]}}'),
        "JSON",
    ),
    "metadata that is a list": (_raw('{"__metadata__":[]}', 0), "__metadata__"),
    "metadata with a number": (_raw('{"__metadata__":{"a":1}}', 0), "__metadata__"),
    "a tensor that is a number": (_raw(f'{{"a":{ONE},"b":1}}'), "must be an object"),
    "a hole at the start": (safetensors({"a": tensor(4, 8, [1])}, 8), "must begin at 0"),
    "a hole between": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, 12), "must begin at 4"),
    "a hole at the end": (safetensors({"a": tensor(0, 4, [1])}, 8), "the file has 8"),
    "bytes behind no tensors": (safetensors({}, 1), "the file has 1"),
    "an overlap": (safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, 12), "must begin at 8"),
    "the same bytes twice": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, 4), "must begin at 4"),
    "past the end": (safetensors({"a": tensor(0, 8, [2])}, 4), "ends at 8"),
    "backwards": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(4, 0, [1])}, 4), "must begin at 4"),
    "a negative offset": (safetensors({"a": tensor(-4, 4, [2])}, 4), "data_offsets"),
    "three offsets": (_raw('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}'), "data_offsets"),
    "no offsets": (_raw('{"a":{"dtype":"F32","shape":[1]}}'), "data_offsets"),
    "an offset with a point": (_raw('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}}'), "data_offsets"),
    "an offset that is true": (_raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,true]}}', 1), "data_offsets"),
    "no shape": (_raw('{"a":{"dtype":"F32","data_offsets":[0,4]}}'), "shape"),
    "a negative shape": (safetensors({"a": tensor(0, 4, [-1, -1])}, 4), "shape"),
    "a shape past 64 bits": (safetensors({"a": tensor(0, 0, [2**64, 0])}, 0), "shape"),
    "a shape that overflows": (safetensors({"a": tensor(0, 0, [2**62, 8, 0])}, 0), "elements"),
    "a shape that overflows to the right size": (safetensors({"a": tensor(0, 4, [2**62, 4, 1], "U8")}, 4), "elements"),
    "a shape without end": (safetensors({"a": tensor(0, 4, [2**62] * 50_000)}, 4), "elements"),
    "a shape of another size": (safetensors({"a": tensor(0, 4, [2])}, 4), "do not fit 4 bytes"),
    "a dtype that is no name": (safetensors({"a": tensor(0, 4, [1], "F 33")}, 4), "an invalid dtype"),
    "a dtype that is a list": (_raw('{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}'), "an invalid dtype"),
    "no dtype": (_raw('{"a":{"shape":[1],"data_offsets":[0,4]}}'), "an invalid dtype"),
}


@pytest.mark.parametrize(("data", "rule"), LIES.values(), ids=LIES.keys())
def test_lies(data: bytes, rule: str) -> None:
    """
    An invalid header is rejected, and the message names the violated rule.
    """
    assert rule in refused(data)


EXAMPLES = examples(160)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], int, int]:
    """
    A valid header in any order, the size of its tensors, and its padding.
    """
    header, end = {}, 0
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        dtype = draw(st.sampled_from(sorted(BITS)))
        # A multiple of four elements of six bits fills whole bytes.
        shape = [4, *draw(st.lists(st.integers(0, 4), max_size=3))]
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = tensor(end, end + size, shape, dtype)
        end += size
    order = draw(st.permutations(sorted(header)))
    return {name: header[name] for name in order}, end, draw(st.integers(0, 9))


@given(file=files(), metadata=st.dictionaries(names, names, max_size=2))
@settings(max_examples=EXAMPLES, deadline=None)
def test_well_formed(file: tuple[dict[str, Any], int, int], metadata: dict[str, str]) -> None:
    """
    Every valid file is indexed exactly.
    """
    header, size, padding = file
    data = safetensors(header | {"__metadata__": metadata}, size, padding)
    start = len(data) - size
    index = indexed(data)
    assert index.metadata == metadata
    assert {each.name for each in index.tensors} == set(header)
    for each in index.tensors:
        first, last = each.offset - start, each.offset - start + each.size_bytes
        assert header[each.name] == tensor(first, last, list(each.shape), each.dtype)
    assert index.parameter_count == sum(math.prod(entry["shape"]) for entry in header.values())
    assert TensorIndex.decode(index.encode()) == index


@given(file=files(), cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=EXAMPLES, deadline=None)
def test_cut_files(file: tuple[dict[str, Any], int, int], cut: float) -> None:
    """
    A truncated file is rejected if enough of it is left to detect the format.
    """
    data = safetensors(*file)
    shortest = 11
    refused(data[: shortest + int(cut * (len(data) - shortest))])


@given(file=files(), data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_moved_offsets(file: tuple[dict[str, Any], int, int], data: st.DataObject) -> None:
    """
    A file with any changed offset is rejected.
    """
    header, size, padding = file
    changed = copy.deepcopy(header)
    offsets = changed[data.draw(st.sampled_from(sorted(header)))]["data_offsets"]
    place, by = data.draw(st.integers(0, 1)), data.draw(st.integers(-size - 2, size + 2).filter(bool))
    offsets[place] += by
    refused(safetensors(changed, size, padding))
