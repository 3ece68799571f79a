"""
Compressed variants of text assets, stored next to the original and served to clients that accept the encoding.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from functools import partial

import zstandard

from services.cdn.model import Span, is_private, variant_key
from services.cdn.model.compression import LEAST_BYTES, MOST_BYTES, worth_keeping, worth_trying
from services.cdn.store.memory import Budget
from services.cdn.store.objects.bucket import Bucket

#: How many texts of the largest size may be in memory at once, and how many seconds others wait.
_LARGEST_AT_ONCE = 2
_PATIENCE = 120.0


class _Nothing:
    def update(self, data: bytes, /) -> None:
        """
        Ignore the bytes.
        """


class Variants:
    """
    Creates compressed variants.

    Args:
        bucket: to store them in.
        least_bytes: smaller assets get none.
        most_bytes: larger assets get none, since they are compressed in memory.
    """

    def __init__(self, bucket: Bucket, *, least_bytes: int, most_bytes: int) -> None:
        self._bucket = bucket
        self._least, self._most = least_bytes, most_bytes
        self._memory = Budget(_LARGEST_AT_ONCE * most_bytes, patience=_PATIENCE)

    def wants(self, key: str, size_bytes: int, media_type: str, seen: str) -> bool:
        """
        Whether variants of an asset should be tried. Private assets get none: they could not be served.

        Args:
            key: of its bytes.
            seen: the detected format.
        """
        return not is_private(key) and worth_trying(
            media_type, size_bytes, format=seen, least_bytes=self._least, most_bytes=self._most
        )

    async def make(self, key: str, size_bytes: int, media_type: str, seen: str, whole: bytes | None) -> tuple[str, ...]:
        """
        Store the variants of an object that are sufficiently smaller.

        Args:
            key: of the object.
            seen: the detected format.
            whole: its bytes, if they are in memory.

        Returns:
            The stored encodings.

        Raises:
            Unavailable: S3 does not answer, or no memory became free in time.
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


# Half a second each for 32 MiB of source code. The next levels take several times as long for a few hundredths less.
_GZIP_LEVEL = 6
# Its window is 4 MiB: HTTP clients need not support windows over 8 MiB (RFC 9659).
_ZSTD_LEVEL = 9


def compressed(
    data: bytes,
    media_type: str,
    *,
    format: str = "",  # noqa: A002 - the asset's field
    least_bytes: int = LEAST_BYTES,
    most_bytes: int = MOST_BYTES,
) -> dict[str, bytes]:
    """
    The variants of *data* that are smaller by at least a tenth, by HTTP content coding (RFC 9110, section
    8.4.1; RFC 8878, section 7.2): "gzip", "zstd".

    Deterministic: concurrent processes create identical variants. It takes about
    30 ms for each MiB, without the GIL: call it in a thread.

    Args:
        data: the original.
        media_type: what was declared.
        format: the detected format, used when *media_type* is generic.
        least_bytes: smaller ones have no variants.
        most_bytes: larger ones have no variants.
    """
    if not worth_trying(media_type, len(data), format=format, least_bytes=least_bytes, most_bytes=most_bytes):
        return {}
    variants = {encoding: compress(data) for encoding, compress in _COMPRESSORS.items()}
    return {encoding: variant for encoding, variant in variants.items() if worth_keeping(len(data), len(variant))}


def _gzip(data: bytes) -> bytes:
    # Without the time, for reproducible output (RFC 1952, MTIME).
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": _zstd}
