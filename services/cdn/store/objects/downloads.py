"""
Downloads from S3.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from services.cdn.model import Asset, Span
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import NoSuchKey, RangeNotSatisfiable
from services.chassis.errors import DataLoss, NotFound, OutOfRange, Unavailable
from services.chassis.serving.background import Chores

if TYPE_CHECKING:
    from botocore.response import StreamingBody

#: Large enough to amortise the cost per message, small enough for a thousand slow readers.
PIECE_BYTES = 512 * 1024
#: Consecutive reconnects without progress before giving up.
_REOPENINGS = 2


class AssetReader:
    """
    Reads a range of an asset in pieces, prefetching one piece: a slow consumer slows S3 down (backpressure).

    A broken connection is reopened at the position reached.

    Args:
        bucket: to read from.
        asset: to read.
        span: the requested range.
        chores: closes the connection when the call is cancelled during a read.
        hashing: whether to hash the bytes, and to verify the digest of a complete asset.
    """

    def __init__(self, bucket: Bucket, asset: Asset, span: Span, chores: Chores, *, hashing: bool = True) -> None:
        self._bucket, self._asset, self._span, self._chores = bucket, asset, span, chores
        self._hash = hashlib.sha256() if hashing else None
        self._position = span.offset
        self._body: StreamingBody | None = None

    @property
    def sha256(self) -> str | None:
        """
        The digest of the bytes read so far; None without hashing.
        """
        return None if self._hash is None else self._hash.hexdigest()

    async def pieces(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """
        The pieces, each with its offset from the start of the asset.

        Raises:
            NotFound: no such asset (ASSET_NOT_FOUND).
            OutOfRange: the range begins after the end (OFFSET_PAST_END).
            Unavailable: S3 does not answer.
            DataLoss: the complete asset was read and its digest does not match (ASSET_DAMAGED).
        """
        self._check_offset()
        ahead = asyncio.create_task(self._next())
        try:
            while piece := await asyncio.shield(ahead):
                offset = self._position - len(piece)
                ahead = asyncio.create_task(self._next())
                yield offset, piece
        finally:
            self._chores.add(self._close(ahead))
        if self._hash is not None and self._span.whole and self.sha256 != self._asset.sha256:
            raise DataLoss("ASSET_DAMAGED", f"the bytes stored as {self._asset.name} have the sha256 {self.sha256}")

    def _check_offset(self) -> None:
        size = self._asset.size_bytes
        if self._span.offset > size:
            raise OutOfRange(
                "OFFSET_PAST_END",
                f"offset {self._span.offset} is past the end of {self._asset.name}, which has {size} bytes",
                metadata={"size_bytes": str(size)},
            )

    async def _next(self) -> bytes:
        for reopenings in range(_REOPENINGS + 1):
            try:
                self._body = self._body or await self._open()
                if self._body is None:
                    return b""
                piece = await self._bucket.read(self._body, PIECE_BYTES, self._hash)
            except Unavailable:
                self._drop()
                if reopenings == _REOPENINGS:
                    raise
            else:
                self._position += len(piece)
                return piece
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _open(self) -> StreamingBody | None:
        if self._span.nothing:
            return None
        done = self._position - self._span.offset
        if done and done == self._span.limit:
            return None
        limit = self._span.limit - done if self._span.limit else 0
        try:
            return await self._open_from(Span(self._position, limit))
        except NoSuchKey:
            raise NotFound("ASSET_NOT_FOUND", self._asset.name) from None

    async def _open_from(self, span: Span) -> StreamingBody | None:
        try:
            return await self._bucket.open(self._asset.key, span)
        except RangeNotSatisfiable:
            # S3 rejects a range that begins at the end, where a resuming client may be, and has no empty ranges.
            return None

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    async def _close(self, ahead: asyncio.Task[bytes]) -> None:
        # Not before the reading thread is done: closing a socket that is being read is undefined.
        await asyncio.gather(ahead, return_exceptions=True)
        self._drop()
