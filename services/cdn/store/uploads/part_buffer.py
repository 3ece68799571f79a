"""
A part while its bytes come.
"""

from __future__ import annotations


class PartBuffer:
    """
    The bytes of a part that is being filled. Their memory is taken at once: a buffer that grows leaves one of each size
    behind, which other parts do not fit in.

    Args:
        size: bytes that the part will have.

    Attributes:
        bytes: all of them; zeros where none came yet.
        count: how many came.
    """

    __slots__ = ("_view", "bytes", "count")

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.count = 0
        self._view = memoryview(self.bytes)

    @property
    def full(self) -> bool:
        """
        Whether all came.
        """
        return self.count == len(self.bytes)

    def take(self, data: memoryview) -> memoryview:
        """
        Take of *data* what fits.

        Returns:
            The rest.
        """
        end = min(self.count + len(data), len(self.bytes))
        taken = end - self.count
        self._view[self.count : end] = data[:taken]
        self.count = end
        return data[taken:]
