"""
One upload on its way into S3.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from types import TracebackType
from typing import TYPE_CHECKING

from services.cdn.model import UPLOAD_MEMORY_BYTES, Draft
from services.cdn.store.bucket import Bucket
from services.cdn.store.budget import Budget
from services.cdn.store.chores import Chores
from services.cdn.store.s3 import Missing, Taken
from services.chassis.errors import ModelyardError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log = logging.getLogger(__name__)

#: Seconds to wait before each try to abort an upload that failed.
_ABORT_DELAYS = (0.0, 1.0, 5.0, 20.0)


class AssetWriter:
    """
    Takes the bytes of an asset in order and stores them under their digest, or not at all.

    What fits in one part is kept back and written with one PUT; the rest becomes a multipart upload, which S3 shows to
    nobody until it is completed. Neither happens before the digest is verified.

    Args:
        bucket: where to.
        draft: what is to come.
        budget: of the memory that all uploads share.
        chores: takes what remains to be done when the caller has gone away.

    Example:
        async with AssetWriter(bucket, draft, budget, chores) as writer:
            async for data in chunks:
                await writer.write(data)
            await writer.finish()
    """

    def __init__(self, bucket: Bucket, draft: Draft, budget: Budget, chores: Chores) -> None:
        self._bucket, self._draft, self._budget, self._chores = bucket, draft, budget, chores
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        # What the buffer may grow to: taken from the budget, 0 while there is no buffer.
        self._granted = 0
        self._at_once = max(1, UPLOAD_MEMORY_BYTES // draft.part_bytes - 1)
        self._upload: asyncio.Task[str] | None = None
        self._parts: list[asyncio.Task[CompletedPartTypeDef]] = []
        self._under_way: set[asyncio.Task[CompletedPartTypeDef]] = set()
        self._completing: asyncio.Task[None] | None = None
        self._finished = False

    async def __aenter__(self) -> AssetWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._granted:
            self._budget.give(self._granted)
        if not self._finished and self._upload is not None:
            self._chores.add(self._discard(self._upload))

    async def write(self, data: bytes) -> None:
        """
        Take the next bytes; waits while enough parts are under way.

        Raises:
            Unavailable: S3 does not answer, or too many uploads run at once.
        """
        view = memoryview(data)
        while view:
            if not self._granted:
                await self._begin_part()
            room = self._draft.part_bytes - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == self._draft.part_bytes < self._draft.size_bytes:
                await self._hash_buffer()
                await self._ship()

    async def finish(self) -> None:
        """
        Verify the digest, then make the asset visible. One that is there already stays as it is.

        Raises:
            DataLoss: the bytes do not have the declared digest (DIGEST_MISMATCH).
            Unavailable: S3 does not answer.
        """
        await self._hash_buffer()
        self._draft.check_digest(self._hash.hexdigest())
        if self._upload is None:
            await self._put()
        else:
            if self._buffer:
                await self._ship()
            parts = [await part for part in self._parts]
            self._completing = asyncio.create_task(self._complete(self._upload.result(), parts))
            await asyncio.shield(self._completing)
        self._finished = True

    async def _begin_part(self) -> None:
        left = self._draft.size_bytes - len(self._parts) * self._draft.part_bytes
        size = min(self._draft.part_bytes, left)
        await self._budget.take(size)
        self._granted = size

    async def _hash_buffer(self) -> None:
        # Off the event loop: 8 MiB take about 6 ms.
        if self._buffer:
            await asyncio.to_thread(self._hash.update, self._buffer)

    async def _ship(self) -> None:
        # Tasks of their own, that no cancel reaches: a caller that goes away must neither free the memory while a
        # thread reads it, nor leave an upload that nobody knows the id of.
        if self._upload is None:
            self._upload = asyncio.create_task(self._bucket.start(self._draft))
        upload = await asyncio.shield(self._upload)
        while len(self._under_way) >= self._at_once:
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        part = asyncio.create_task(self._send(upload, len(self._parts) + 1, self._buffer, self._granted))
        self._buffer, self._granted = bytearray(), 0
        self._parts.append(part)
        self._under_way.add(part)

    async def _send(self, upload: str, number: int, body: bytearray, granted: int) -> CompletedPartTypeDef:
        try:
            return await self._bucket.send(self._draft.sha256, upload, number, body)
        finally:
            self._budget.give(granted)

    async def _put(self) -> None:
        try:
            await self._bucket.put(self._draft, self._buffer)
        except Taken:
            _log.info("%s was stored by another upload meanwhile", self._draft.sha256)

    async def _complete(self, upload: str, parts: list[CompletedPartTypeDef]) -> None:
        try:
            await self._bucket.complete(self._draft.sha256, upload, parts)
        except Taken:
            _log.info("%s was stored by another upload meanwhile", self._draft.sha256)
            self._chores.add(self._abort(upload))
        except Missing:
            # The first try went through and its answer was lost: a retry finds no such upload, but the asset.
            await self._bucket.head(self._draft.sha256)

    async def _discard(self, starting: asyncio.Task[str]) -> None:
        await asyncio.gather(starting, *self._parts, return_exceptions=True)
        if self._completing is not None:
            await asyncio.gather(self._completing, return_exceptions=True)
        completed = self._completing is not None and self._completing.exception() is None
        if not completed and starting.exception() is None:
            await self._abort(starting.result())

    async def _abort(self, upload: str) -> None:
        for delay in _ABORT_DELAYS:
            await asyncio.sleep(delay)
            try:
                await self._bucket.abort(self._draft.sha256, upload)
            except Missing:
                return
            except ModelyardError as error:
                _log.warning("upload %s of %s is not aborted yet: %s", upload, self._draft.sha256, error)
            else:
                return
