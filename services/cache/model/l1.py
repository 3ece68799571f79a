"""
The L1 cache, in the memory of this process and bounded in bytes.

Admission and eviction are W-TinyLFU (Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy",
ACM Transactions on Storage 13(4), 2017), implemented by the library moka: a scan of keys that are read once does not
evict frequently read ones. docs/adr/0012 has the libraries that were compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from moka_py import Moka

from services.cache.model.entries import Entry

# Overhead per entry: objects, the map's slot, the policy's queues (measured, docs/adr/0012).
OVERHEAD = 800
_Cause = Literal["explicit", "size", "expired", "replaced"]


class L1Cache:
    """
    Entries by key, until they are evicted.

    Args:
        most_bytes: capacity in bytes; 0 disables the cache.

    Attributes:
        evictions: entries removed, by cause: size, invalid, expired, cleared.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.evictions: Counter[str] = Counter()
        self._entries: Moka[bytes, Entry] = Moka(most_bytes, weigher=_size, eviction_listener=self._evicted)
        # The library's own method: a wrapper would cost as much as the lookup.
        self.get: Callable[[bytes], Entry | None] = self._entries.get

    def __len__(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.count()

    @property
    def size(self) -> int:
        """
        The size of all entries in bytes, with keys and overhead.
        """
        self._entries.run_pending_tasks()
        return self._entries.weighted_size()

    def put(self, key: bytes, entry: Entry) -> None:
        """
        Store *entry*, unless it is larger than the capacity.
        """
        if _size(key, entry) > self._most_bytes:
            self._entries.remove(key)
        else:
            self._entries.set(key, entry)

    def drop(self, key: bytes, cause: str) -> None:
        """
        Remove *key*, counted under *cause*.
        """
        if self._entries.remove(key) is not None:
            self.evictions[cause] += 1

    def clear(self) -> int:
        """
        Remove all entries, and return how many there were.
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
