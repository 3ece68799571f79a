"""
The assets, as the service sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from services.cdn.model import Asset, Draft, Page, Span, asset_name, parse_name
from services.cdn.store.bucket import Bucket
from services.cdn.store.budget import Budget
from services.cdn.store.chores import Chores
from services.cdn.store.reader import AssetReader
from services.cdn.store.s3 import Missing, S3Settings
from services.cdn.store.writer import AssetWriter
from services.chassis.errors import InvalidArgument, NotFound

#: How many assets one call asks S3 about at once; half of the quick lane's threads, so that calls share it.
_LOOKUPS = 8
#: Seconds that work in the background may take at the end, within the time to drain.
_PATIENCE = 10.0


class AssetStore:
    """
    Keeps assets in a bucket, content-addressed and written once. What is known of an asset is kept with its bytes.

    Args:
        settings: where the bucket is.
        upload_memory: bytes that all uploads together may hold in memory; more of them wait.
    """

    def __init__(self, settings: S3Settings, *, upload_memory: int) -> None:
        self._bucket = Bucket(settings)
        self._budget = Budget(upload_memory)
        self._chores = Chores()

    async def ping(self) -> None:
        """
        Raises:
            Exception: the bucket cannot be used.
        """
        await self._bucket.ping()

    async def find(self, sha256: str) -> Asset | None:
        """
        The asset with this digest, if there is one.
        """
        try:
            return await self._bucket.head(sha256)
        except Missing:
            return None

    async def get(self, sha256: str) -> Asset:
        """
        Raises:
            NotFound: no such asset (ASSET_NOT_FOUND).
        """
        asset = await self.find(sha256)
        if asset is None:
            raise NotFound("ASSET_NOT_FOUND", asset_name(sha256))
        return asset

    async def list(self, page: Page) -> tuple[Sequence[Asset], str]:
        """
        A page of assets by digest, and the digest after which the next page begins (empty on the last one).
        """
        digests: list[str] = []
        after, more = asset_name(page.after), True
        while more and not digests:
            keys, more = await self._bucket.keys(after, page.size)
            digests = [digest for key in keys if (digest := _digest_of(key))]
            after = keys[-1] if keys else after
        assets = [asset for asset in await self._find_all(digests) if asset is not None]
        return assets, digests[-1] if more and digests else ""

    async def missing(self, digests: Iterable[str]) -> Sequence[str]:
        """
        Those of *digests* that are not stored, in their order.
        """
        wanted = list(digests)
        found = await self._find_all(wanted)
        return [digest for digest, asset in zip(wanted, found, strict=True) if asset is None]

    def write(self, draft: Draft) -> AssetWriter:
        """
        A writer for the bytes that *draft* declares.
        """
        return AssetWriter(self._bucket, draft, self._budget, self._chores)

    def read(self, sha256: str, span: Span) -> AssetReader:
        """
        A reader of a part of an asset.
        """
        return AssetReader(self._bucket, sha256, span, self._chores)

    async def close(self) -> None:
        """
        Finish what runs in the background, then close the connections.
        """
        await self._chores.finish(_PATIENCE)
        await self._bucket.close()

    async def _find_all(self, digests: Sequence[str]) -> Sequence[Asset | None]:
        found: dict[str, Asset | None] = {}
        left = iter(digests)

        async def look() -> None:
            for digest in left:
                found[digest] = await self.find(digest)

        lookers = [asyncio.create_task(look()) for _ in range(min(_LOOKUPS, len(digests)))]
        try:
            await asyncio.gather(*lookers)
        finally:
            for looker in lookers:
                looker.cancel()
        return [found[digest] for digest in digests]


def _digest_of(key: str) -> str | None:
    try:
        return parse_name(key)
    except InvalidArgument:
        return None


@asynccontextmanager
async def open_assets(settings: S3Settings, *, upload_memory: int) -> AsyncIterator[AssetStore]:
    """
    An AssetStore for as long as the block lasts.
    """
    store = AssetStore(settings, upload_memory=upload_memory)
    try:
        yield store
    finally:
        await store.close()
