"""
Detection of ONNX models by the fields of their outermost message.

ONNX is a ModelProto (github.com/onnx/onnx, onnx/onnx.proto) in the wire format of protocol buffers
(protobuf.dev/programming-guides/encoding), which has no magic number. Therefore the fields are enumerated, and all of
them must be fields of ModelProto. This is conservative: a model with fields that are unknown here is not detected.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _LENGTH = 0, 2
_IR_VERSION, _GRAPH = 1, 7
#: Field numbers of ModelProto and their wire types.
_MODEL = {1: _VARINT, 5: _VARINT, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), _LENGTH)}
_TEXTS = frozenset({2, 3, 4, 6})
#: Fields of GraphProto; all of them are messages or strings.
_GRAPH_FIELDS = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})
_REPEATED = frozenset({8, 14, 20, 25, 26})
_MOST_IR_VERSION = 100
#: Far more than models have; bounds the time for crafted files with empty fields.
_MOST_FIELDS = 20_000


def is_onnx(head: bytes, size_bytes: int) -> bool:
    """
    Whether a file of *size_bytes* that begins with *head* is an ONNX model.
    """
    seen: set[int] = set()
    try:
        for count, (field, start, end) in enumerate(_fields(head, size_bytes)):
            if count >= _MOST_FIELDS or (field in seen and field not in _REPEATED):
                return False
            seen.add(field)
            if field == _GRAPH and not _begins_a_graph(head, start, end):
                return False
            if field in _TEXTS:
                head[start:end].decode()
    except ValueError:
        return False
    return seen >= {_IR_VERSION, _GRAPH}


def _fields(head: bytes, size_bytes: int) -> Iterator[tuple[int, int, int]]:
    """
    The fields in *head*: number, start and end of the payload; the end may be past the end of *head*.

    Raises:
        ValueError: this is not a ModelProto.
    """
    place = 0
    while place < len(head):
        key, place = _varint(head, place)
        field, kind = key >> 3, key & 7
        if _MODEL.get(field) != kind:
            raise ValueError("not a field of ModelProto")
        number, start = _varint(head, place)
        if field == _IR_VERSION and not 1 <= number <= _MOST_IR_VERSION:
            raise ValueError("not a version of the format")
        end = start + number if kind == _LENGTH else start
        if end > size_bytes:
            raise ValueError("past the end of the file")
        yield field, start, end
        place = end


def _begins_a_graph(head: bytes, start: int, end: int) -> bool:
    key, place = _varint(head, start)
    size, place = _varint(head, place)
    return key & 7 == _LENGTH and key >> 3 in _GRAPH_FIELDS and place + size <= end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """
    Raises:
        ValueError: there is no complete varint at *place*.
    """
    value = 0
    for shift, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise ValueError("not a varint")
