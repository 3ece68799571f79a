"""
Compression in memory: a few large texts at a time, however many are uploaded concurrently.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.cdn.settings import CdnSettings
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.compression import Variants
from services.cdn.tests.calls import MIB
from services.chassis.settings import SettingsError, load


class Body:
    """
    An object's bytes.
    """

    def close(self) -> None:
        """
        Nothing to close.
        """


class Counting:
    """
    A bucket that counts the bytes that were read and whose variants are not stored yet.
    """

    def __init__(self) -> None:
        self.held = self.most = self.stored = 0

    async def open(self, *_: object) -> Body:
        """
        A text.
        """
        return Body()

    async def read(self, _body: Body, size: int, _digest: object) -> bytes:
        """
        All of it.
        """
        self.held += size
        self.most = max(self.most, self.held)
        await asyncio.sleep(0)
        return b"a" * size

    async def put(self, key: str, *_: object, **__: object) -> None:
        """
        Store a variant; the last one completes a text.
        """
        await asyncio.sleep(0.01)
        self.stored += 1
        if key.startswith("zstd/"):
            self.held -= MIB


async def test_memory_is_bounded() -> None:
    """
    Of ten concurrent large texts two are in memory at a time, and each gets its variants.
    """
    counting = Counting()
    variants = Variants(cast("Bucket", counting), least_bytes=0, most_bytes=MIB)
    keys = [f"assets/{number}" for number in range(10)]
    made = await asyncio.gather(*(variants.make(key, MIB, "text/plain", "TEXT", None) for key in keys))
    assert made == [("gzip", "zstd")] * 10
    assert counting.stored == 20
    assert counting.most <= 2 * MIB


async def test_small_ones_do_not_wait_for_large_ones() -> None:
    """
    As many small texts as fit into that memory are compressed concurrently.
    """
    counting = Counting()
    variants = Variants(cast("Bucket", counting), least_bytes=0, most_bytes=8 * MIB)
    keys = [f"assets/{number}" for number in range(10)]
    await asyncio.gather(*(variants.make(key, MIB, "text/plain", "TEXT", None) for key in keys))
    assert counting.most > 2 * MIB


def test_bounds_that_leave_nothing() -> None:
    """
    Settings under which no size would be compressed are rejected, unless compression is disabled explicitly.
    """
    environ = {
        "MODELYARD_DATABASE_URL": "postgresql://me@localhost/cdn",
        "MODELYARD_S3_BUCKET": "b",
        "MODELYARD_COMPRESS_LEAST_BYTES": "2000",
    }
    with pytest.raises(SettingsError, match="MODELYARD_COMPRESS_LEAST_BYTES"):
        load(CdnSettings, environ | {"MODELYARD_COMPRESS_MOST_BYTES": "1999"}).limits()
    for most in (0, 2000):
        limits = load(CdnSettings, environ | {"MODELYARD_COMPRESS_MOST_BYTES": str(most)}).limits()
        assert limits.most_compressed == most
