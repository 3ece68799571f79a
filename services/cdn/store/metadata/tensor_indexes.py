"""
Cache of tensor indexes. Decoding one takes up to half a second, in a thread, and clients that load a model request
tensor after tensor.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from services.cdn.model.formats import Tensor, TensorIndex
from services.cdn.store.records import Records
from services.ledger.model.pages import Page
from services.ledger.store.paging import MOST_OCTETS

#: Capacity of the cache in tensors; each takes about 300 bytes.
_MOST_TENSORS = 200_000


@dataclass(frozen=True, slots=True)
class Index:
    """
    A decoded tensor index.

    Args:
        whole: in the order of the file.
        by_name: its tensors by name.
    """

    whole: TensorIndex
    by_name: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """
        Its size against the capacity of the cache.
        """
        return 1 + len(self.whole.tensors) + len(self.whole.metadata)


class TensorIndexCache:
    """
    An LRU cache of tensor indexes.

    Args:
        records: to read them from.
        most: capacity in tensors.
    """

    def __init__(self, records: Records, most: int = _MOST_TENSORS) -> None:
        self._records, self._most = records, most
        self._kept: OrderedDict[str, Index] = OrderedDict()
        self._room = most
        self._turns = asyncio.Semaphore(2)

    async def get(self, sha256: str) -> Index:
        """
        The index of an asset. Assets are immutable, so entries never expire; the caller has checked that it exists
        and may be seen.

        Raises:
            Missing: there is no such asset.
            FailedPrecondition: it is not a safetensors file, or has no index.
        """
        if (kept := self._find(sha256)) is not None:
            return kept
        data = await self._records.tensors(sha256)
        async with self._turns:
            # It may have been decoded meanwhile.
            if (kept := self._find(sha256)) is not None:
                return kept
            index = await asyncio.to_thread(_decode, data)
        self._keep(sha256, index)
        return index

    async def page(self, page: Page, sha256: str) -> tuple[TensorIndex, str]:
        """
        A page of an index, and the next page token.

        Raises:
            Missing, FailedPrecondition: see `get`.
        """
        found = await self.get(sha256)
        first = page.after[0] if page.after else 0
        assert isinstance(first, int)  # noqa: S101 - for the type checker: the query says so
        part, more = found.whole.part(first, page.size, MOST_OCTETS)
        return part, "" if more is None else page.query.token([more])

    def _find(self, sha256: str) -> Index | None:
        if sha256 in self._kept:
            self._kept.move_to_end(sha256)
        return self._kept.get(sha256)

    def _keep(self, sha256: str, index: Index) -> None:
        if index.size > self._most or sha256 in self._kept:
            return
        self._kept[sha256] = index
        self._room -= index.size
        while self._room < 0:
            _, oldest = self._kept.popitem(last=False)
            self._room += oldest.size


def _decode(data: bytes) -> Index:
    whole = TensorIndex.decode(data)
    return Index(whole, {tensor.name: tensor for tensor in whole.tensors})
