"""
Model files for tests.
"""

from __future__ import annotations

import json
from typing import Any

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


def framed(header: bytes, data: bytes = b"") -> bytes:
    """
    A safetensors file: the length of the header, the header, the bytes of the tensors.
    """
    return len(header).to_bytes(8, "little") + header + data


def safetensors(header: dict[str, Any], size: int, padding: int = 0) -> bytes:
    """
    A safetensors file with this header, padded with spaces, and *size* bytes of tensors.
    """
    return framed(json.dumps(header).encode() + b" " * padding, bytes(size))


def tensor(first: int, last: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    """
    The header's entry for a tensor.
    """
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def varint(number: int) -> bytes:
    """
    A varint of the protobuf wire format.
    """
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    """
    A field of a protobuf message: a varint or bytes.
    """
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


#: GraphProto: a node (an input, an output, its type) and a name.
GRAPH = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu")) + field(2, b"graph")
#: ModelProto: version, producer, the graph, the opset.
ONNX = field(1, 8) + field(2, b"somebody") + field(7, GRAPH) + field(8, field(2, 17))
