"""
Resumable uploads: streams bytes into the parts of a multipart upload and records their progress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

from services.cdn.model import Upload, UploadWay, staging_key
from services.cdn.store.memory import ClientMemory
from services.cdn.store.metadata.inspection import inspect_bytes
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import NoSuchKey
from services.cdn.store.uploads.digests import Digest, resumable
from services.cdn.store.uploads.multipart import PartBuffer, abort
from services.cdn.store.uploads.sessions import Progress, UploadSessions
from services.chassis.errors import ModelyardError, NotFound
from services.chassis.serving.background import Chores
from services.chassis.serving.background import begin as begin_task

_log = logging.getLogger(__name__)


async def begin(bucket: Bucket, uploads: UploadSessions, upload: Upload, way: UploadWay) -> Upload:
    """
    Open the multipart upload for the bytes, unless it is open.

    Streamed bytes go under the asset's own key, where they are invisible until they are verified and completed. Direct
    parts can only be verified after completion, so they go under a secret staging key; so do streamed bytes where the
    state of SHA-256 cannot be saved.

    Raises:
        FailedPrecondition: the upload uses the other way.
    """
    if upload.multipart:
        await uploads.begin(upload, way, upload.key, upload.multipart)
        return replace(upload, way=way)
    staged = way is UploadWay.DIRECT or not resumable()
    key = staging_key(upload.id) if staged else upload.draft.key
    multipart = await bucket.start(key, upload.draft.media_type)
    try:
        begun = await uploads.begin(upload, way, key, multipart)
    except BaseException:
        await asyncio.shield(abort(bucket, key, multipart))
        raise
    if begun.multipart != multipart:
        await abort(bucket, key, multipart)
    # Keeps our own writer token, even if another writer has taken over meanwhile.
    return replace(upload, way=begun.way, key=begun.key, multipart=begun.multipart)


class UploadWriter:
    """
    Writes the bytes of an upload from its committed position. A part is committed once it is in S3 and recorded in
    the database. One part is being sent while the next is received, so that less than two parts are sent again after a
    break.

    Args:
        bucket: to write to.
        uploads: the upload sessions.
        upload: taken by this writer, and begun if it has bytes.
        budget: the client's share of the upload memory.
        chores: runs what remains to be done after a call was cancelled.
        alive: whether bytes are still arriving: then the writer's lease is renewed.

    Example:
        async with UploadWriter(bucket, uploads, upload, budget, chores) as writer:
            async for data in chunks:
                await writer.write(data)
            upload = await writer.finish()
    """

    def __init__(
        self,
        bucket: Bucket,
        uploads: UploadSessions,
        upload: Upload,
        budget: ClientMemory,
        chores: Chores,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._bucket, self._uploads, self._budget, self._chores = bucket, uploads, budget, chores
        self.upload = upload
        self._digest: Digest | None = None
        if not upload.staged:
            self._digest = Digest() if upload.hash_state is None else Digest.resume(upload.hash_state)
        self._number = upload.parts + 1
        # Its size is acquired from the budget.
        self._buffer: PartBuffer | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._alive, self._keeping = alive, begin_task(self._keep())

    async def __aenter__(self) -> UploadWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free()
        self._keeping.cancel()
        if error is None:
            await self._uploads.release_lease(self.upload)
        else:
            # The call may be cancelled already.
            self._chores.add(self._stop())

    @property
    def received(self) -> int:
        """
        Offset of the next byte.
        """
        # The last part may be shorter than the others.
        before = min((self._number - 1) * self.upload.part_bytes, self.upload.draft.size_bytes)
        return before + (0 if self._buffer is None else self._buffer.count)

    async def write(self, data: bytes) -> None:
        """
        Write the next bytes; waits while one part is being sent and another one is full.

        Raises:
            InvalidArgument: the header of a safetensors file does not match its bytes.
            Aborted: another writer has taken over.
            Unavailable: S3 does not answer, or too many concurrent uploads.
        """
        view = memoryview(data)
        while view:
            buffer = self._buffer = self._buffer or await self._begin_part()
            view = buffer.take(view)
            if buffer.full:
                await self._ship(buffer)

    async def finish(self) -> Upload:
        """
        Wait for the part that is being sent. An incomplete part is dropped.

        Returns:
            The upload with its progress.
        """
        await self._settle()
        return self.upload

    async def _begin_part(self) -> PartBuffer:
        size = self.upload.part_size(self._number)
        await self._budget.take(size)
        return PartBuffer(size)

    async def _ship(self, buffer: PartBuffer) -> None:
        await self._settle()
        # A separate task, shielded from cancellation: a part that S3 has stored must be recorded.
        self._under_way = asyncio.create_task(self._send(self._number, buffer.bytes))
        self._buffer, self._number = None, self._number + 1

    async def _settle(self) -> None:
        if self._under_way is not None:
            await asyncio.shield(self._under_way)

    async def _send(self, number: int, body: bytearray) -> None:
        upload = self.upload
        try:
            seen = await inspect_bytes(body, upload.draft) if number == 1 else None
            digest = self._digest
            hashing = None if digest is None else asyncio.create_task(asyncio.to_thread(digest.update, body))
            try:
                part = await self._bucket.send(upload.key, upload.multipart, number, body)
            except NoSuchKey:
                raise NotFound("UPLOAD_NOT_FOUND", upload.name) from None
            finally:
                if hashing is not None:
                    await hashing
            state = None if digest is None else digest.state()
            self.upload = await self._uploads.record(upload, Progress(part, state, seen))
        finally:
            self._budget.give(len(body))

    async def _keep(self) -> None:
        ours = True
        while ours:
            await asyncio.sleep(self._uploads.lease.total_seconds() / 3)
            with suppress(ModelyardError):
                ours = not self._alive() or await self._uploads.renew_lease(self.upload)

    async def _stop(self) -> None:
        if self._under_way is not None:
            await _settled(self._under_way)
        await self._uploads.release_lease(self.upload)

    def _free(self) -> None:
        if self._buffer is not None:
            self._budget.give(len(self._buffer.bytes))
            self._buffer = None


async def _settled(task: asyncio.Task[None]) -> None:
    found = await asyncio.gather(task, return_exceptions=True)
    if isinstance(found[0], Exception):
        _log.info("the last part of an interrupted upload is lost: %s", found[0])
