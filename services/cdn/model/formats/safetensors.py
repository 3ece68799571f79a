"""
Safetensors files: recognised, and held to their format.

The format (github.com/safetensors/safetensors, README, "Format"): 8 bytes, the little-endian length N of the header; N
bytes of JSON in UTF-8 that begin with ``{`` and may end in spaces; then the bytes of the tensors, without holes. The
header maps names to ``{"dtype", "shape", "data_offsets": [begin, end]}``, counted from the end of the header, and
``__metadata__`` to a map of texts. N is at most 100 MB and no key comes twice. Where that text is silent, the reference
(safetensors/src/tensor.rs, ``validate``) is followed, but that it refuses element types that it does not know: a file
of a later release of the format, or of a tool with a type of its own, is no lie. Such a file has no index.
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
# How a JSON object begins. Other formats have a small number and then "{" by chance: a list of 64-bit integers that
# holds 123 second, for one. Their next bytes are hardly ever this, and JSON has no control characters (RFC 8259).
_START = re.compile(rb'\{[ \t\r\n]*["}]')
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LOOK = 16


class InvalidHeader(Exception):  # noqa: N818 - it is what the header tells
    """
    A safetensors file is not what its header says: the message is the rule that it breaks.
    """


class UnknownTypes(Exception):  # noqa: N818 - an outcome
    """
    A file keeps the rules, but that it has element types whose sizes are not known here: the message names them.
    """


def header_bytes(head: bytes) -> int | None:
    """
    N, the length of the header in bytes, when *head* begins as safetensors files do; else None.
    """
    size = int.from_bytes(head[:_PREFIX], "little")
    if not 2 <= size <= MAX_HEADER_BYTES:
        return None
    start = head[_PREFIX : _PREFIX + min(size, _LOOK)]
    return size if _START.match(start) and not _CONTROL.search(start) else None


def read_index(head: bytes, header: int, size_bytes: int) -> TensorIndex | None:
    """
    The index of a file that begins as safetensors files do.

    Args:
        head: the first bytes of the file, the whole header at least.
        header: the header's length, from ``header_bytes``.
        size_bytes: of the whole file.

    Returns:
        None when it is another format after all: JSON behind its length, with nothing of a tensor in it.

    Raises:
        Lie: the header breaks a rule of the format, or does not fit the file.
        UnknownTypes: it keeps them, as far as that can be said of types that are not known.
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
        Lie: the header is longer than the file.
    """
    if header > size_bytes - _PREFIX:
        raise InvalidHeader(f"the header claims {header} bytes, the file has {size_bytes - _PREFIX} after its length")


def _parse(header: bytes) -> dict[str, Any]:
    try:
        # str: json would guess another encoding than UTF-8 from bytes.
        content = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # A name with half a surrogate pair is no text: it could not be sent on.
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
        raise ValueError("a key comes twice in an object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in JSON")


def _is_tensor(value: object) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(("dtype", "shape", "data_offsets"))


def _read_metadata(metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidHeader("__metadata__ must map texts to texts")
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
            raise InvalidHeader(
                f"{label} is at [{first}, {last}]: it must begin at {end}, without a hole or an overlap"
            )
        if last > room:
            raise InvalidHeader(f"{label} ends at {last}, the file has {room} bytes of tensors")
        elements = _elements(label, shape)
        bits = _BITS.get(dtype)
        if bits is None:
            unknown.add(dtype)
        elif elements * bits != (last - first) * 8:
            raise InvalidHeader(f"{label} has {elements} elements of {dtype}: they do not take {last - first} bytes")
        tensors.append(Tensor(name, dtype, shape, begin + first, last - first))
        end, parameters = last, parameters + elements
    if end != room:
        raise InvalidHeader(f"the tensors take {end} bytes, the file has {room}")
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
            raise InvalidHeader(f"{label} has no right dtype, but {str(dtype)[:40]!r}")
        if not _are_sizes(shape):
            raise InvalidHeader(f"{label} must have a shape of integers from 0 to {_MOST_DIMENSION}")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise InvalidHeader(f"{label} must have two data_offsets, integers from 0 to {_MOST_DIMENSION}")
        yield (offsets[0], offsets[1]), name, dtype, tuple(shape)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    # `type`: True is an int, too.
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= _MOST_DIMENSION for each in value)


def _elements(label: str, shape: tuple[int, ...]) -> int:
    elements = 1
    for size in shape:
        elements *= size
        if elements > _MOST_ELEMENTS:  # checked on the way: the product of a long shape would take minutes
            raise InvalidHeader(f"{label} has more than {_MOST_ELEMENTS} elements")
    return elements
