"""
Compressed variants of what is text, stored beside it for whoever accepts their encoding.
"""

from __future__ import annotations

import asyncio
from functools import partial

from services.cdn.model import Span, is_private, variant_key
from services.cdn.model.compression import worth_trying
from services.cdn.store.memory import Budget
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.variants import compressed

#: How many of the largest texts may be in memory at once, and how many seconds others wait for their turn.
_LARGEST_AT_ONCE = 2
_PATIENCE = 120.0


class _Nothing:
    def update(self, data: bytes, /) -> None:
        """
        Take in nothing.
        """


class Variants:
    """
    Makes them.

    Args:
        bucket: where they go.
        least_bytes: what is smaller is left alone.
        most_bytes: what is larger is left alone: it would have to be in memory.
    """

    def __init__(self, bucket: Bucket, *, least_bytes: int, most_bytes: int) -> None:
        self._bucket = bucket
        self._least, self._most = least_bytes, most_bytes
        self._memory = Budget(_LARGEST_AT_ONCE * most_bytes, patience=_PATIENCE)

    def wants(self, key: str, size_bytes: int, media_type: str, seen: str) -> bool:
        """
        Whether an asset gets any, if they are smaller. Private ones get none: nobody could be served them.

        Args:
            key: of its bytes.
            seen: the format that it was recognised as.
        """
        return not is_private(key) and worth_trying(
            media_type, size_bytes, format=seen, least_bytes=self._least, most_bytes=self._most
        )

    async def make(self, key: str, size_bytes: int, media_type: str, seen: str, whole: bytes | None) -> tuple[str, ...]:
        """
        Store the variants of an object that save something.

        Args:
            key: of the object.
            seen: the format that it was recognised as.
            whole: its bytes, where they are at hand.

        Returns:
            The encodings that are stored.

        Raises:
            Unavailable: S3 does not answer, or others held the memory for too long.
        """
        if not self.wants(key, size_bytes, media_type, seen):
            return ()
        await self._memory.take(size_bytes)
        try:
            return await self._make(key, size_bytes, media_type, seen, whole)
        finally:
            self._memory.give(size_bytes)

    async def _make(
        self, key: str, size_bytes: int, media_type: str, seen: str, whole: bytes | None
    ) -> tuple[str, ...]:
        if whole is None:
            body = await self._bucket.open(key, Span())
            try:
                whole = await self._bucket.read(body, size_bytes, _Nothing())
            finally:
                body.close()
        work = partial(compressed, whole, media_type, format=seen, least_bytes=self._least, most_bytes=self._most)
        found = await asyncio.to_thread(work)
        for encoding, data in found.items():
            await self._bucket.put(variant_key(encoding, key), data, media_type, encoding=encoding, first=False)
        return tuple(sorted(found))
