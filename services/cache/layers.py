"""
An entry, and the level of the cache that is in this process.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

_FORMAT = b"MY1"
_HEADER = struct.Struct(">qddI")
# What an entry costs beside its bytes: objects, the dictionary's slot.
_OVERHEAD = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An answer, serialised.

    Args:
        value: the answer's bytes.
        revision: the one that it reflects.
        tags: what it was made from.
        stored: when, in seconds since the epoch.
        expires: when, in seconds since the epoch.
    """

    value: bytes
    revision: int
    tags: tuple[str, ...]
    stored: float
    expires: float

    def encode(self) -> bytes:
        """
        For the shared level: a format's name, a checksum, then everything.
        """
        tags = "\n".join(self.tags).encode()
        body = _HEADER.pack(self.revision, self.stored, self.expires, len(tags)) + tags + self.value
        return _FORMAT + zlib.crc32(body).to_bytes(4, "big") + body

    @classmethod
    def decode(cls, data: bytes) -> Entry | None:
        """
        What `encode` made; None for anything else.
        """
        body = data[7:]
        if data[:3] != _FORMAT or len(body) < _HEADER.size or zlib.crc32(body) != int.from_bytes(data[3:7], "big"):
            return None
        revision, stored, expires, length = _HEADER.unpack_from(body)
        start = _HEADER.size + length
        tags = body[_HEADER.size : start].decode()
        return cls(body[start:], revision, tuple(tags.split("\n")) if tags else (), stored, expires)


class Near:
    """
    The level in this process: the least recently used entries go when the bytes are full.

    Args:
        most_bytes: the bound.

    Attributes:
        bytes: what the entries take, keys and overhead included.
        evicted: how many had to go.
    """

    __slots__ = ("_entries", "_most_bytes", "bytes", "evicted")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """
        The entry of *key*, unless it has expired.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= time.time():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """
        Keep *entry*; one that does not fit at all is not kept.
        """
        self.drop(key)
        size = _size(key, entry)
        if size > self._most_bytes:
            return
        self._entries[key] = entry
        self.bytes += size
        while self.bytes > self._most_bytes:
            old, evicted = self._entries.popitem(last=False)
            self.bytes -= _size(old, evicted)
            self.evicted += 1

    def drop(self, key: bytes) -> None:
        """
        Forget *key*.
        """
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _size(key, entry)

    def clear(self) -> None:
        """
        Forget everything.
        """
        self._entries.clear()
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)


def _size(key: bytes, entry: Entry) -> int:
    return len(key) + len(entry.value) + sum(map(len, entry.tags)) + _OVERHEAD
