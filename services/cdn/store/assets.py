"""
The byte store of assets: uploads, downloads and copies, as the service uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.cdn.model import Asset, Draft, Span
from services.cdn.model.static_files import Headers
from services.cdn.store.memory import UploadMemory
from services.cdn.store.objects.bucket import Bucket, cache_control
from services.cdn.store.objects.compression import Variants
from services.cdn.store.objects.copier import Copier
from services.cdn.store.objects.downloads import AssetReader
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.store.records import Records
from services.cdn.store.uploads.one_shot import AssetWriter
from services.cdn.store.uploads.part_urls import PartUrls
from services.chassis.serving.background import Chores

#: Seconds that background work may take at shutdown, within the drain time.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Resource limits of transfers.

    Args:
        upload_memory: bytes that all uploads of a process may buffer in memory; further uploads wait.
        upload_memory_each: the limit per client; None for no separate limit.
        least_compressed, most_compressed: the range of sizes in bytes in which text is compressed.
    """

    upload_memory: int
    least_compressed: int
    most_compressed: int
    upload_memory_each: int | None = None


class AssetStore:
    """
    Stores the bytes of assets in a bucket, content-addressed and write-once.

    Args:
        settings: where the bucket is.
        records: of assets.
        limits: of transfers.
        public_endpoint: the object store's URL for clients, if it differs from that of this service.

    Attributes:
        bucket: the bucket.
        part_urls: presigns URLs for parts that clients send to the object store directly.
        memory: shared by all uploads.
        chores: runs what remains to be done after a call was cancelled.
        variants: creates the compressed variants.
    """

    def __init__(
        self, settings: S3Settings, records: Records, limits: Limits, public_endpoint: str | None = None
    ) -> None:
        self.bucket = Bucket(settings)
        self.part_urls = PartUrls(settings, public_endpoint)
        self._copier = Copier(settings)
        self.memory = UploadMemory(limits.upload_memory, limits.upload_memory_each)
        self.chores = Chores("uploads")
        self.variants = Variants(self.bucket, least_bytes=limits.least_compressed, most_bytes=limits.most_compressed)
        self._records = records

    async def ping(self) -> None:
        """
        Raises:
            Exception: the bucket cannot be used.
        """
        await self.bucket.ping()

    def write(self, draft: Draft, client: str = "") -> AssetWriter:
        """
        A writer for the bytes that *draft* declares.

        Args:
            client: to whose share of the memory the buffers count.
        """
        return AssetWriter(self.bucket, self._records, self.variants, draft, self.memory.of(client), self.chores)

    def read(self, asset: Asset, span: Span, *, hashing: bool = True) -> AssetReader:
        """
        A reader of a part of an asset, with or without its digest.
        """
        return AssetReader(self.bucket, asset, span, self.chores, hashing=hashing)

    async def copy(self, source: str, key: str, size_bytes: int, media_type: str) -> None:
        """
        Copy an object within the bucket, with the headers of immutable content.

        Raises:
            NoSuchKey: there is no *source*.
        """
        await self._copier.copy(source, key, Headers(media_type, cache_control(key)), size_bytes)

    async def close(self) -> None:
        """
        Wait for background work, then close the connections.
        """
        await self.chores.finish(_PATIENCE)
        await asyncio.gather(self.bucket.close(), self._copier.close(), self.part_urls.close())


@asynccontextmanager
async def open_assets(
    settings: S3Settings, records: Records, limits: Limits, public_endpoint: str | None = None
) -> AsyncIterator[AssetStore]:
    """
    An AssetStore for as long as the block lasts.
    """
    store = AssetStore(settings, records, limits, public_endpoint)
    try:
        yield store
    finally:
        await store.close()
