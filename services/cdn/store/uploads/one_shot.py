"""
Uploads in one stream (AssetService.Upload), which cannot be resumed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from types import TracebackType

from services.cdn.model import UPLOAD_MEMORY_BYTES, Draft
from services.cdn.model.formats import Inspection
from services.cdn.store.memory import ClientMemory
from services.cdn.store.metadata.inspection import inspect_bytes, scan_object, scanned
from services.cdn.store.objects.bucket import Bucket, Part
from services.cdn.store.objects.compression import Variants
from services.cdn.store.objects.s3 import AlreadyExists, NoSuchKey
from services.cdn.store.records import Records, VerifiedBytes, asset_going
from services.cdn.store.uploads.multipart import PartBuffer, abort
from services.chassis.serving.background import Chores

_log = logging.getLogger(__name__)


class AssetWriter:
    """
    Writes the bytes of an asset under their digest, atomically.

    What fits in one part is buffered and written with one PUT; the rest becomes a multipart upload, which is invisible
    until it is completed. Neither happens before the digest is verified and the key is reserved.

    Args:
        bucket: to write to.
        records: reserves the key.
        variants: creates the compressed variants.
        draft: the declared bytes.
        budget: the client's share of the upload memory.
        chores: runs what remains to be done after a call was cancelled.

    Example:
        async with store.write(draft) as writer:
            async for data in chunks:
                await writer.write(data)
            verified = await writer.finish()
    """

    def __init__(
        self, bucket: Bucket, records: Records, variants: Variants, draft: Draft, budget: ClientMemory, chores: Chores
    ) -> None:
        self._bucket, self._records, self._variants = bucket, records, variants
        self._draft, self._budget, self._chores = draft, budget, chores
        self._inspection: Inspection | None = None
        self._hash = hashlib.sha256()
        # Its size is acquired from the budget.
        self._buffer: PartBuffer | None = None
        self._at_once = max(1, UPLOAD_MEMORY_BYTES // draft.part_bytes - 1)
        self._upload: asyncio.Task[str] | None = None
        self._parts: list[asyncio.Task[Part]] = []
        self._under_way: set[asyncio.Task[Part]] = set()
        self._completing: asyncio.Task[None] | None = None
        self._finished = False

    async def __aenter__(self) -> AssetWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._buffer is not None:
            self._budget.give(len(self._buffer.bytes))
        if not self._finished and self._upload is not None:
            self._chores.add(self._discard(self._upload))

    async def write(self, data: bytes) -> None:
        """
        Write the next bytes; waits while the maximum number of parts is being sent.

        Raises:
            Unavailable: S3 does not answer, or too many concurrent uploads.
        """
        view = memoryview(data)
        while view:
            buffer = self._buffer = self._buffer or await self._begin_part()
            view = buffer.take(view)
            if buffer.full and self._draft.size_bytes > self._draft.part_bytes:
                await self._hash_part()
                await self._ship(buffer)

    async def finish(self) -> VerifiedBytes:
        """
        Verify the digest, then store the bytes under it. An existing object is not replaced.

        Raises:
            InvalidArgument: the bytes do not have the declared digest (DIGEST_MISMATCH).
            InvalidArgument: the header of a safetensors file does not match its bytes.
            Unavailable: S3 does not answer.
        """
        draft = self._draft
        await self._hash_part()
        draft.check_digest(self._hash.hexdigest())
        inspection = await self._inspect()
        reserved = await self._records.reserve(draft.sha256, draft.size_bytes, draft.media_type, private=draft.private)
        if self._upload is None:
            wanted = self._variants.wants(draft.key, draft.size_bytes, draft.media_type, inspection.format)
            whole = bytes(self._bytes) if wanted else None
            inspection = await scanned(inspection, self._bytes)
            await self._put()
        else:
            whole = None
            # Shielded for the reason given in `_ship`: cancellation propagates to an awaited task.
            parts = [await asyncio.shield(part) for part in self._parts]
            self._completing = asyncio.create_task(self._complete(self._upload.result(), parts))
            await asyncio.shield(self._completing)
            inspection = await scan_object(inspection, self._bucket, draft.key, draft.size_bytes)
        self._finished = True
        encodings = await self._variants.make(draft.key, draft.size_bytes, draft.media_type, inspection.format, whole)
        return VerifiedBytes(
            draft.sha256, draft.size_bytes, draft.media_type, draft.private, reserved, inspection, encodings
        )

    async def _inspect(self) -> Inspection:
        # Before the first part is sent, so that an invalid header is rejected early.
        if self._inspection is None:
            self._inspection = await inspect_bytes(self._bytes, self._draft)
        return self._inspection

    @property
    def _bytes(self) -> bytearray:
        return bytearray() if self._buffer is None else self._buffer.bytes

    async def _begin_part(self) -> PartBuffer:
        left = self._draft.size_bytes - len(self._parts) * self._draft.part_bytes
        size = min(self._draft.part_bytes, left)
        await self._budget.take(size)
        return PartBuffer(size)

    async def _hash_part(self) -> None:
        # Off the event loop: 8 MiB take about 6 ms.
        if self._buffer is not None:
            await asyncio.to_thread(self._hash.update, self._buffer.bytes)

    async def _ship(self, buffer: PartBuffer) -> None:
        # Separate tasks, shielded from cancellation: a cancelled call must neither release the buffer while a thread
        # reads it, nor leak a multipart upload of unknown id.
        await self._inspect()
        if self._upload is None:
            self._upload = asyncio.create_task(self._bucket.start(self._draft.key, self._draft.media_type))
        upload = await asyncio.shield(self._upload)
        while len(self._under_way) >= self._at_once:
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        part = asyncio.create_task(self._send(upload, len(self._parts) + 1, buffer.bytes))
        self._buffer = None
        self._parts.append(part)
        self._under_way.add(part)

    async def _send(self, upload: str, number: int, body: bytearray) -> Part:
        try:
            return await self._bucket.send(self._draft.key, upload, number, body)
        except NoSuchKey:
            # Aborted externally, for instance by a lifecycle rule for incomplete uploads.
            raise asset_going(self._draft.sha256) from None
        finally:
            self._budget.give(len(body))

    async def _put(self) -> None:
        try:
            await self._bucket.put(self._draft.key, self._bytes, self._draft.media_type)
        except AlreadyExists:
            _log.info("%s was stored by another upload meanwhile", self._draft.sha256)

    async def _complete(self, upload: str, parts: list[Part]) -> None:
        try:
            await self._bucket.complete(self._draft.key, upload, parts)
        except AlreadyExists:
            _log.info("%s was stored by another upload meanwhile", self._draft.sha256)
            self._chores.add(abort(self._bucket, self._draft.key, upload))
        except NoSuchKey:
            # The first attempt succeeded and its response was lost: the retry finds the object, but no upload.
            try:
                await self._bucket.head(self._draft.key)
            except NoSuchKey:
                raise asset_going(self._draft.sha256) from None

    async def _discard(self, starting: asyncio.Task[str]) -> None:
        await asyncio.gather(starting, *self._parts, return_exceptions=True)
        if self._completing is not None:
            await asyncio.gather(self._completing, return_exceptions=True)
        completed = self._completing is not None and self._completing.exception() is None
        if not completed and starting.exception() is None:
            await abort(self._bucket, self._draft.key, starting.result())
