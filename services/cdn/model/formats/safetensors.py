"""
Safetensors files: detection and validation.

The format (github.com/safetensors/safetensors, README, "Format"): 8 bytes, the little-endian length N of the header; N
bytes of JSON in UTF-8 that begin with ``{`` and may end in spaces; then the bytes of the tensors, without holes. The
header maps names to ``{"dtype", "shape", "data_offsets": [begin, end]}``, relative to the end of the header, and
``__metadata__`` to a map of strings. N is at most 100 MB, and keys are unique. Where the specification is silent, the
reference implementation (safetensors/src/tensor.rs, ``validate``) is followed, with one exception: files with unknown
element types, from a later version of the format or another tool, are accepted. They have no index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeGuard

from services.cdn.model.formats.tensors import Tensor, TensorIndex

MAX_HEADER_BYTES = 100_000_000
_PREFIX = 8
#: Bits of one element, by its type.
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_DTYPE = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
_MOST_DIMENSION = 2**63 - 1
_MOST_ELEMENTS = 2**64 - 1
# How a JSON object begins. Other formats may have a small number followed by "{" by chance, such as a list of 64-bit
# integers with 123 in second place. Their next bytes rarely match, and JSON has no control characters (RFC 8259).
_START = re.compile(rb'\{[ \t\r\n]*["}]')
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LOOK = 16


class InvalidHeader(Exception):  # noqa: N818 - named for the finding
    """
    The header of a safetensors file is invalid or does not match the file; the message names the violated rule.
    """


class UnknownTypes(Exception):  # noqa: N818 - an outcome
    """
    A file is valid except for element types of unknown size; the message names them.
    """


def header_bytes(head: bytes) -> int | None:
    """
    N, the length of the header in bytes, if *head* begins like a safetensors file; else None.
    """
    size = int.from_bytes(head[:_PREFIX], "little")
    if not 2 <= size <= MAX_HEADER_BYTES:
        return None
    start = head[_PREFIX : _PREFIX + min(size, _LOOK)]
    return size if _START.match(start) and not _CONTROL.search(start) else None


def read_index(head: bytes, header: int, size_bytes: int) -> TensorIndex | None:
    """
    The index of a file that begins like a safetensors file.

    Args:
        head: the first bytes of the file, at least the whole header.
        header: length of the header, from ``header_bytes``.
        size_bytes: of the whole file.

    Returns:
        None if it is another format: length-prefixed JSON without tensors.

    Raises:
        InvalidHeader: the header violates the format, or does not match the file.
        UnknownTypes: it is valid except for unknown element types.
    """
    content = _parse(head[_PREFIX : _PREFIX + header])
    metadata = content.pop("__metadata__", None)
    if content and metadata is None and not any(_is_tensor(value) for value in content.values()):
        return None
    begin = _PREFIX + header
    texts = _read_metadata(metadata)
    tensors, parameters = _read_tensors(content, begin, size_bytes - begin)
    return TensorIndex(tensors, texts, parameters)


def check_length(header: int, size_bytes: int) -> None:
    """
    Raises:
        InvalidHeader: the header is longer than the file.
    """
    if header > size_bytes - _PREFIX:
        raise InvalidHeader(f"the header claims {header} bytes, the file has {size_bytes - _PREFIX} after its length")


def _parse(header: bytes) -> dict[str, Any]:
    try:
        # Decoded first: json would detect other encodings than UTF-8.
        content = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # A name with an unpaired surrogate cannot be encoded in a response.
        json.dumps(list(content), ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidHeader("the header is nested too deeply") from None
    except ValueError as error:
        raise InvalidHeader(f"the header is not JSON in UTF-8: {str(error)[:200]}") from None
    if not isinstance(content, dict):  # it begins with "{", so this cannot be
        raise InvalidHeader("the header is not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("duplicate key in an object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _is_tensor(value: object) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(("dtype", "shape", "data_offsets"))


def _read_metadata(metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidHeader("__metadata__ must map strings to strings")
    try:
        "".join((*metadata, *metadata.values())).encode()
    except UnicodeEncodeError:
        raise InvalidHeader("__metadata__ must hold valid Unicode") from None
    return metadata


def _read_tensors(content: dict[str, Any], begin: int, room: int) -> tuple[tuple[Tensor, ...], int]:
    tensors, end, parameters, unknown = [], 0, 0, set[str]()
    for (first, last), name, dtype, shape in sorted(_fields(content)):
        label = f"tensor {name[:100]!r}"
        if first != end or last < first:
            raise InvalidHeader(f"{label} is at [{first}, {last}]: it must begin at {end}, without a gap or an overlap")
        if last > room:
            raise InvalidHeader(f"{label} ends at {last}, but the file has {room} bytes of tensors")
        elements = _elements(label, shape)
        bits = _BITS.get(dtype)
        if bits is None:
            unknown.add(dtype)
        elif elements * bits != (last - first) * 8:
            raise InvalidHeader(f"{label} has {elements} elements of {dtype}, which do not fit {last - first} bytes")
        tensors.append(Tensor(name, dtype, shape, begin + first, last - first))
        end, parameters = last, parameters + elements
    if end != room:
        raise InvalidHeader(f"the tensors take {end} bytes, but the file has {room}")
    if unknown:
        raise UnknownTypes(", ".join(sorted(unknown)[:5]))
    return tuple(tensors), parameters


def _fields(content: dict[str, Any]) -> Iterator[tuple[tuple[int, int], str, str, tuple[int, ...]]]:
    for name, value in content.items():
        label = f"tensor {name[:100]!r}"
        if not isinstance(value, dict):
            raise InvalidHeader(f"{label} must be an object")
        dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
            raise InvalidHeader(f"{label} has an invalid dtype: {str(dtype)[:40]!r}")
        if not _are_sizes(shape):
            raise InvalidHeader(f"{label} must have a shape of integers from 0 to {_MOST_DIMENSION}")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise InvalidHeader(f"{label} must have two data_offsets, integers from 0 to {_MOST_DIMENSION}")
        yield (offsets[0], offsets[1]), name, dtype, tuple(shape)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    # Not isinstance: True is an int, too.
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= _MOST_DIMENSION for each in value)


def _elements(label: str, shape: tuple[int, ...]) -> int:
    elements = 1
    for size in shape:
        elements *= size
        if elements > _MOST_ELEMENTS:  # checked in the loop: the product of a long shape would take minutes
            raise InvalidHeader(f"{label} has more than {_MOST_ELEMENTS} elements")
    return elements
