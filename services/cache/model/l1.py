"""
The level of the cache that is in this process, bounded by bytes.

Admission and eviction are W-TinyLFU (Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy",
ACM Transactions on Storage 13(4), 2017), as the library moka has it: a scan of keys that nobody reads twice does not
drive out the ones that are read. docs/adr/0012 has the libraries that were compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from moka_py import Moka

from services.cache.model.entries import Entry

# What an entry costs beside its bytes: objects, the map's slot, the policy's queues (measured, docs/adr/0012).
OVERHEAD = 800
_Cause = Literal["explicit", "size", "expired", "replaced"]


class L1Cache:
    """
    Entries by key, until they are driven out.

    Args:
        most_bytes: the bound; 0 keeps nothing.

    Attributes:
        evictions: how many entries have gone, by cause: size, invalid, expired, cleared.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.evictions: Counter[str] = Counter()
        self._entries: Moka[bytes, Entry] = Moka(most_bytes, weigher=_size, eviction_listener=self._evicted)
        # The library's own method: a call in between would cost as much as the look-up.
        self.get: Callable[[bytes], Entry | None] = self._entries.get

    def __len__(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.count()

    @property
    def size(self) -> int:
        """
        The bytes that the entries take, keys and overhead included.
        """
        self._entries.run_pending_tasks()
        return self._entries.weighted_size()

    def put(self, key: bytes, entry: Entry) -> None:
        """
        Keep *entry*; one that does not fit at all is not kept.
        """
        if _size(key, entry) > self._most_bytes:
            self._entries.remove(key)
        else:
            self._entries.set(key, entry)

    def drop(self, key: bytes, cause: str) -> None:
        """
        Forget *key*, because of *cause*.
        """
        if self._entries.remove(key) is not None:
            self.evictions[cause] += 1

    def clear(self) -> int:
        """
        Forget everything, and say how many entries that were.
        """
        count = len(self)
        self._entries.clear()
        self.evictions["cleared"] += count
        return count

    def _evicted(self, _key: bytes, _entry: Entry, cause: _Cause) -> None:
        if cause == "size":
            self.evictions["size"] += 1


def _size(key: bytes, entry: Entry) -> int:
    return len(key) + len(entry.value) + sum(map(len, entry.tags)) + OVERHEAD
