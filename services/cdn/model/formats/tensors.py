"""
The tensors of a file: names, types, shapes and positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.cdn.model.formats.packing import pack, unpack


@dataclass(frozen=True, slots=True)
class Tensor:
    """
    One tensor of a file.

    Args:
        name: as in the file.
        dtype: type of its elements, as in the format: "F16", "BF16".
        shape: size of each dimension; empty for a scalar.
        offset: of its bytes from the start of the file.
        size_bytes: number of bytes; 0 if a dimension is 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """
    The tensors of a file, from its header.

    Args:
        tensors: in the order of their bytes.
        metadata: custom strings by key.
        parameter_count: number of elements in all tensors.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    parameter_count: int

    def part(self, first: int, size: int, octets: int) -> tuple[TensorIndex, int | None]:
        """
        A page of the index: first the metadata, then the tensors.

        Args:
            first: number of metadata entries and tensors before the page.
            size: maximum number of tensors.
            octets: maximum size as a message in bytes; at least one entry is included.

        Returns:
            The page, and the start of the next one; None after the last.
        """
        texts = list(self.metadata.items())
        items: list[tuple[str, str] | Tensor] = [*texts, *self.tensors]
        end = first
        for item in items[first : max(first, len(texts)) + size]:
            octets -= _octets(item)
            if octets < 0 and end > first:
                break
            end += 1
        begin, until = (max(place - len(texts), 0) for place in (first, end))
        part = TensorIndex(self.tensors[begin:until], dict(texts[first:end]), self.parameter_count)
        return part, end if end < len(items) else None

    def encode(self) -> bytes:
        """
        The index for the database: JSON, compressed with zlib.
        """
        return pack(self.to_plain())

    @classmethod
    def decode(cls, data: bytes) -> TensorIndex:
        """
        Decode the result of ``encode``.

        Raises:
            ValueError: *data* is damaged.
        """
        return unpack(data, cls.from_plain)

    def to_plain(self) -> dict[str, Any]:
        """
        The index as JSON types.
        """
        rows = [[each.name, each.dtype, each.shape, each.offset, each.size_bytes] for each in self.tensors]
        return {"tensors": rows, "metadata": dict(self.metadata), "parameters": self.parameter_count}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TensorIndex:
        """
        Convert the result of ``to_plain``.

        Raises:
            ValueError, TypeError, KeyError: *plain* has another structure.
        """
        tensors = tuple(
            Tensor(str(name), str(dtype), tuple(map(int, shape)), int(offset), int(size))
            for name, dtype, shape, offset, size in plain["tensors"]
        )
        return cls(tensors, dict(plain["metadata"]), int(plain["parameters"]))


def _octets(item: tuple[str, str] | Tensor) -> int:
    # An upper bound: a number takes up to ten bytes, and each field has a tag and a length.
    if isinstance(item, Tensor):
        return len(item.name.encode()) + len(item.dtype) + 10 * len(item.shape) + 48
    return sum(len(text.encode()) for text in item) + 24
