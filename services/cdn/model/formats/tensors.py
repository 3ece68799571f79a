"""
The tensors of a file: what they are called, what they are made of, and where their bytes are.
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
        name: as the file spells it.
        dtype: the type of an element, as the format spells it: "F16", "BF16".
        shape: how many elements along each dimension; empty for a scalar.
        offset: where its bytes begin, from the start of the file.
        size_bytes: how many bytes; 0 when a dimension is 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """
    What the header of a file says of its tensors.

    Args:
        tensors: in the order of their bytes.
        metadata: texts that the file's maker left, by their key.
        parameter_count: the elements of all tensors together.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    parameter_count: int

    def part(self, first: int, size: int, octets: int) -> tuple[TensorIndex, int | None]:
        """
        A part of the index, of which the metadata comes before the tensors.

        Args:
            first: how many texts and tensors come before the part.
            size: how many tensors it has at most.
            octets: how many bytes it has at most as a message; one text or tensor is there in any case.

        Returns:
            The part, and where the next one begins; None after the last.
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
        The index that ``encode`` made *data* of.

        Raises:
            ValueError: it is not what ``encode`` makes.
        """
        return unpack(data, cls.from_plain)

    def to_plain(self) -> dict[str, Any]:
        """
        The index as JSON has it.
        """
        rows = [[each.name, each.dtype, each.shape, each.offset, each.size_bytes] for each in self.tensors]
        return {"tensors": rows, "metadata": dict(self.metadata), "parameters": self.parameter_count}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TensorIndex:
        """
        The index that ``to_plain`` made *plain* of.

        Raises:
            ValueError, TypeError, KeyError: it is not what ``to_plain`` makes.
        """
        tensors = tuple(
            Tensor(str(name), str(dtype), tuple(map(int, shape)), int(offset), int(size))
            for name, dtype, shape, offset, size in plain["tensors"]
        )
        return cls(tensors, dict(plain["metadata"]), int(plain["parameters"]))


def _octets(item: tuple[str, str] | Tensor) -> int:
    # At most: a number takes up to ten bytes, and there are some around each field.
    if isinstance(item, Tensor):
        return len(item.name.encode()) + len(item.dtype) + 10 * len(item.shape) + 48
    return sum(len(text.encode()) for text in item) + 24
