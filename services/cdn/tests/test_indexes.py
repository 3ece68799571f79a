"""
The cache of tensor indexes: decoding does not block the event loop, and is done once for many calls.
"""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from services.cdn.model.formats import Tensor, TensorIndex
from services.cdn.store.metadata.tensor_indexes import TensorIndexCache
from services.cdn.store.records import Records


class Known:
    """
    Records with an index for every digest.
    """

    def __init__(self, tensors: int) -> None:
        self.asked: list[str] = []
        rows = tuple(Tensor(f"t{number}", "U8", (1,), number, 1) for number in range(tensors))
        self._data = TensorIndex(rows, {}, tensors).encode()

    async def tensors(self, sha256: str) -> bytes:
        """
        A stored index.
        """
        self.asked.append(sha256)
        return self._data


def indexes(known: Known, most: int) -> TensorIndexCache:
    """
    A cache of up to *most* tensors.
    """
    return TensorIndexCache(cast("Records", known), most)


async def test_what_was_asked_for_last_is_kept() -> None:
    """
    An LRU cache: an index is decoded again only after it was evicted, least recently used first.
    """
    known = Known(9)
    kept = indexes(known, 25)
    for sha256 in ("a", "b", "a", "c", "a", "b"):
        found = await kept.get(sha256)
        assert (found.by_name["t3"].offset, len(found.whole.tensors)) == (3, 9)
    assert known.asked == ["a", "b", "c", "b"]


async def test_one_that_is_too_large_is_not_kept() -> None:
    """
    An index larger than the cache is not cached.
    """
    known = Known(30)
    kept = indexes(known, 25)
    for _ in range(2):
        assert (await kept.get("a")).by_name["t29"].offset == 29
    assert known.asked == ["a", "a"]


async def test_it_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Decoding runs outside the event loop's thread, and concurrent requests for an index decode it once.
    """
    threads: list[threading.Thread] = []
    decode = TensorIndex.decode

    def watched(data: bytes) -> TensorIndex:
        threads.append(threading.current_thread())
        return decode(data)

    monkeypatch.setattr(TensorIndex, "decode", watched)
    kept = indexes(Known(5), 100)
    await asyncio.gather(*(kept.get("a") for _ in range(10)))
    assert len(threads) <= 2
    assert threading.main_thread() not in threads
