"""
One download on its way out of S3.
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

#: Large enough that calls cost little beside bytes, small enough for a thousand slow readers at once.
PIECE_BYTES = 512 * 1024
#: How often in a row a broken connection is opened again without a byte gained.
_REOPENINGS = 2


class AssetReader:
    """
    Reads a part of an asset piece by piece, one piece ahead of the taker and no more: who takes slowly slows S3 down.

    A connection that breaks is opened again where it broke.

    Args:
        bucket: where from.
        asset: which one.
        span: the wanted part.
        chores: closes the connection when the taker has gone away in the middle of a read.
        hashing: whether what is read is hashed, and all of an asset compared with its digest.
    """

    def __init__(self, bucket: Bucket, asset: Asset, span: Span, chores: Chores, *, hashing: bool = True) -> None:
        self._bucket, self._asset, self._span, self._chores = bucket, asset, span, chores
        self._hash = hashlib.sha256() if hashing else None
        self._position = span.offset
        self._body: StreamingBody | None = None

    @property
    def sha256(self) -> str | None:
        """
        The digest of what was read so far; None when it is not made.
        """
        return None if self._hash is None else self._hash.hexdigest()

    async def pieces(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """
        The pieces, each with its offset from the start of the asset.

        Raises:
            NotFound: no such asset (ASSET_NOT_FOUND).
            OutOfRange: the part begins after the end (OFFSET_PAST_END).
            Unavailable: S3 does not answer.
            DataLoss: all of the asset was read, and what S3 keeps is damaged (ASSET_DAMAGED).
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
            raise DataLoss("ASSET_DAMAGED", f"what is stored as {self._asset.name} has the sha256 {self.sha256}")

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
            # S3 refuses to begin at the end, where a client that resumes may well stand, and knows no empty ranges.
            return None

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    async def _close(self, ahead: asyncio.Task[bytes]) -> None:
        # Not before the thread that reads is done: closing a socket under it has no defined outcome.
        await asyncio.gather(ahead, return_exceptions=True)
        self._drop()
