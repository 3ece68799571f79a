"""
The bytes of an upload that can be taken up again, on their way into S3.
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
    Open the multipart upload that the bytes go to, unless it is open.

    Bytes that come through us go under the asset's own key, where nobody sees them before they are verified and
    complete. What comes directly can only be verified once it is complete, so that it goes under a key that nobody is
    told; so does what comes through us where SHA-256's state cannot be kept.

    Raises:
        FailedPrecondition: the bytes come the other way.
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
    # Not the writer that there is by now, if another one has taken over meanwhile: its token is not ours.
    return replace(upload, way=begun.way, key=begun.key, multipart=begun.multipart)


class UploadWriter:
    """
    Takes the bytes of an upload from where it stands. A part counts when S3 has it and the database knows: one part is
    on its way and one is being filled, so that whoever goes on after a break sends less than two of them again.

    Args:
        bucket: where to.
        uploads: knows how far it is.
        upload: taken, and begun when it has bytes.
        budget: the caller's, of the memory that all uploads share.
        chores: takes what remains to be done when the caller has gone away.
        alive: whether the caller's bytes still come: so long nobody takes over.

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
        # Its size is taken from the budget.
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
            await self._uploads.stop_writing(self.upload)
        else:
            # Nobody may wait for it any more.
            self._chores.add(self._stop())

    @property
    def received(self) -> int:
        """
        Where the next byte goes.
        """
        # The last part may be shorter than the others.
        before = min((self._number - 1) * self.upload.part_bytes, self.upload.draft.size_bytes)
        return before + (0 if self._buffer is None else self._buffer.count)

    async def write(self, data: bytes) -> None:
        """
        Take the next bytes; waits while a part is on its way and another one is full.

        Raises:
            InvalidArgument: the header of a safetensors file does not fit its bytes.
            Aborted: another writer has taken over.
            Unavailable: S3 does not answer, or too many uploads run at once.
        """
        view = memoryview(data)
        while view:
            buffer = self._buffer = self._buffer or await self._begin_part()
            view = buffer.take(view)
            if buffer.full:
                await self._ship(buffer)

    async def finish(self) -> Upload:
        """
        Wait for the part that is on its way. What is not a whole part is dropped.

        Returns:
            The upload as it stands.
        """
        await self._settle()
        return self.upload

    async def _begin_part(self) -> PartBuffer:
        size = self.upload.part_size(self._number)
        await self._budget.take(size)
        return PartBuffer(size)

    async def _ship(self, buffer: PartBuffer) -> None:
        await self._settle()
        # A task of its own, that no cancel reaches: what S3 has taken shall count.
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
                ours = not self._alive() or await self._uploads.keep_writing(self.upload)

    async def _stop(self) -> None:
        if self._under_way is not None:
            await _settled(self._under_way)
        await self._uploads.stop_writing(self.upload)

    def _free(self) -> None:
        if self._buffer is not None:
            self._budget.give(len(self._buffer.bytes))
            self._buffer = None


async def _settled(task: asyncio.Task[None]) -> None:
    found = await asyncio.gather(task, return_exceptions=True)
    if isinstance(found[0], Exception):
        _log.info("the last part of an upload that broke is lost: %s", found[0])
