"""
Completion of uploads: verifies the bytes of an upload and completes them under the asset's key.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from services.cdn.model import Draft, Span, Upload, UploadWay, staging_key
from services.cdn.model.formats import HEAD_BYTES, Inspection
from services.cdn.store.metadata.inspection import inspect_bytes, scan_object
from services.cdn.store.objects.bucket import Part
from services.cdn.store.objects.s3 import AlreadyExists, NoSuchKey
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.uploads.digests import Digest
from services.cdn.store.uploads.multipart import abort
from services.cdn.store.uploads.sessions import UploadSessions
from services.chassis.errors import Aborted, FailedPrecondition, InvalidArgument, ModelyardError, NotFound
from services.chassis.serving.background import begin

if TYPE_CHECKING:
    from services.cdn.store.assets import AssetStore

_PIECE = 4 << 20
# The lease of the process that finishes an upload, and the interval of its renewal, short enough to survive a pause of
# the event loop or of the database. If the lease expires during a longer pause, the work is done twice, harmlessly.
_CLAIM_SECONDS, _SAID_AGAIN_SECONDS = 15.0, 3.0


class _PartsReplaced(Aborted):
    """
    The stored parts of an upload do not all come from one writer.
    """

    def __init__(self, upload: Upload) -> None:
        super().__init__(
            "PARTS_REPLACED", f"parts of {upload.name} were replaced by another writer: restart the upload"
        )


class UploadCompleter:
    """
    Completes uploads.

    Args:
        assets: the byte store.
        records: reserves the keys.
        uploads: the upload sessions.
    """

    def __init__(self, assets: AssetStore, records: Records, uploads: UploadSessions) -> None:
        self._assets, self._records, self._uploads = assets, records, uploads
        self._bucket = assets.bucket

    @asynccontextmanager
    async def claimed(self, name: str) -> AsyncIterator[Upload]:
        """
        Hold the exclusive right to finish an upload while the block lasts. An upload with invalid bytes is dropped.

        Raises:
            NotFound: there is no such upload, or the object store no longer has its bytes.
            Aborted: another call is finishing it.
        """
        upload = await self._uploads.claim(name, _CLAIM_SECONDS)
        keeping = begin(self._keep(upload))
        try:
            yield upload
        except (InvalidArgument, _PartsReplaced):
            await self.give_up(upload.id)
            raise
        except NoSuchKey:
            # Aborted meanwhile, or the object store has dropped the parts: there is nothing to resume.
            await self.give_up(upload.id)
            raise NotFound("UPLOAD_NOT_FOUND", upload.name) from None
        except Exception:
            await self._uploads.release_claim(upload)
            raise
        except BaseException:
            # The call was cancelled.
            self._assets.chores.add(self._uploads.release_claim(upload))
            raise
        finally:
            keeping.cancel()

    async def verify(self, upload: Upload) -> VerifiedBytes:
        """
        Verify size and digest, and complete the bytes under the asset's key.

        Raises:
            FailedPrecondition: bytes are missing (UPLOAD_INCOMPLETE).
            InvalidArgument: digest or size do not match (DIGEST_MISMATCH, SIZE_MISMATCH), or the header of a
                safetensors file does not match its bytes.
            Aborted: a fenced-off writer has replaced parts (PARTS_REPLACED).
            NoSuchKey: it took so long that the bytes were collected meanwhile.
        """
        draft = upload.draft
        if not draft.size_bytes:
            return await self._empty(draft)
        if upload.staged:
            inspection = await self._verify_staged(upload)
            reserved = await self._reserve(draft)
            await self._assets.copy(upload.key, draft.key, draft.size_bytes, draft.media_type)
        else:
            parts = await self._all_parts(upload)
            if upload.hash_state is None or upload.inspection is None:
                raise AssertionError("a part is recorded with both")
            draft.check_digest(Digest.resume(upload.hash_state).hexdigest())
            inspection = upload.inspection
            reserved = await self._reserve(draft)
            await self._complete(upload, parts)
        inspection = await scan_object(inspection, self._bucket, draft.key, draft.size_bytes)
        encodings = await self._assets.variants.make(
            draft.key, draft.size_bytes, draft.media_type, inspection.format, None
        )
        return VerifiedBytes(
            draft.sha256, draft.size_bytes, draft.media_type, draft.private, reserved, inspection, encodings
        )

    async def finished(self, upload: Upload) -> None:
        """
        Record the upload as finished, and clean up what it left in S3.
        """
        await self._uploads.finished(upload.id, upload.draft.sha256)
        self._assets.chores.add(self.clean(upload))

    async def give_up(self, upload: str, writer: int | None = None) -> None:
        """
        Drop an upload and what it left in S3.

        Args:
            writer: drop it only if this is still its writer.
        """
        dropped = await self._uploads.drop(upload, writer)
        if dropped is not None:
            self._assets.chores.add(self.clean(dropped))

    async def clean(self, upload: Upload) -> None:
        """
        Delete what an upload left in S3 apart from the asset.
        """
        if upload.multipart:
            await abort(self._bucket, upload.key, upload.multipart)
        if upload.way is UploadWay.DIRECT or upload.staged:
            await self._bucket.delete([staging_key(upload.id)])

    async def committed_bytes(self, upload: Upload) -> int:
        """
        The number of contiguous bytes of an upload that are stored durably.
        """
        if upload.way is not UploadWay.DIRECT or not upload.multipart:
            return upload.committed_bytes
        with suppress(NoSuchKey):
            committed = 0
            for number, part in enumerate(await self._bucket.parts(upload.key, upload.multipart), start=1):
                if part.number != number or part.size_bytes != upload.part_size(number):
                    break
                committed += part.size_bytes
            return committed
        # It is complete, but not verified yet.
        return upload.draft.size_bytes

    async def _keep(self, upload: Upload) -> None:
        ours = True
        while ours:
            await asyncio.sleep(_SAID_AGAIN_SECONDS)
            with suppress(ModelyardError):
                ours = await self._uploads.renew_claim(upload, _CLAIM_SECONDS)

    async def _empty(self, draft: Draft) -> VerifiedBytes:
        draft.check_digest(hashlib.sha256().hexdigest())
        reserved = await self._reserve(draft)
        with suppress(AlreadyExists):
            await self._bucket.put(draft.key, b"", draft.media_type)
        return VerifiedBytes(
            draft.sha256, 0, draft.media_type, draft.private, reserved, await inspect_bytes(b"", draft)
        )

    async def _reserve(self, draft: Draft) -> datetime:
        return await self._records.reserve(draft.sha256, draft.size_bytes, draft.media_type, private=draft.private)

    async def _all_parts(self, upload: Upload) -> list[Part]:
        if upload.parts < upload.part_count:
            raise _incomplete(upload, upload.committed_bytes)
        return await self._uploads.parts(upload)

    async def _complete(self, upload: Upload, parts: list[Part]) -> None:
        """
        Complete the recorded parts. S3 rejects parts whose ETags differ from the list, but not every compatible server
        does: a fenced-off writer may have replaced a part.
        """
        with suppress(NoSuchKey):
            there = {(part.number, part.etag) for part in await self._bucket.parts(upload.key, upload.multipart)}
            if not there.issuperset((part.number, part.etag) for part in parts):
                raise _PartsReplaced(upload)
        if not await self._complete_once(upload, parts):
            return
        found, expected = (await self._bucket.head(upload.key)).etag, multipart_etag(parts)
        if expected is not None and found.endswith(f"-{len(parts)}") and found != expected:
            await self._bucket.delete([upload.key])
            raise _PartsReplaced(upload)

    async def _complete_once(self, upload: Upload, parts: list[Part]) -> bool:
        """
        Returns:
            Whether the object may have been made of these parts.
        """
        try:
            await self._bucket.complete(upload.key, upload.multipart, parts)
        except AlreadyExists:
            # Stored by another upload of the same bytes; the open multipart upload is cleaned up.
            return False
        except NoSuchKey:
            # The first attempt succeeded and its response was lost: the retry finds the object, but no upload.
            await self._bucket.head(upload.key)
        return True

    async def _verify_staged(self, upload: Upload) -> Inspection:
        if not upload.multipart:
            raise _incomplete(upload, 0)
        await self._complete_staged(upload)
        stored = await self._bucket.head(upload.key)
        upload.draft.check_size(stored.size_bytes)
        digest, head = await self._read_back(upload)
        upload.draft.check_digest(digest)
        return await inspect_bytes(head, upload.draft)

    async def _complete_staged(self, upload: Upload) -> None:
        try:
            parts = await self._bucket.parts(upload.key, upload.multipart)
        except NoSuchKey:
            # Already complete.
            return
        sizes = [(part.number, part.size_bytes) for part in parts]
        if sizes != [(number, upload.part_size(number)) for number in range(1, upload.part_count + 1)]:
            raise _incomplete(upload, await self.committed_bytes(upload))
        with suppress(NoSuchKey):
            await self._bucket.complete(upload.key, upload.multipart, parts, first=False)

    async def _read_back(self, upload: Upload) -> tuple[str, bytes]:
        digest, head = hashlib.sha256(), b""
        body = await self._bucket.open(upload.key, Span())
        try:
            while piece := await self._bucket.read(body, _PIECE, digest):
                if len(head) < HEAD_BYTES:
                    head += piece[: HEAD_BYTES - len(head)]
        finally:
            body.close()
        return digest.hexdigest(), head


def multipart_etag(parts: list[Part]) -> str | None:
    """
    The ETag of a multipart object: the MD5 of the parts' MD5s and their number, as in S3 and most compatible servers;
    None where a part's ETag is not an MD5 (encrypted buckets).
    """
    if not all(re.fullmatch(r"[0-9a-f]{32}", part.etag) for part in parts):
        return None
    sums = b"".join(bytes.fromhex(part.etag) for part in parts)
    return f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _incomplete(upload: Upload, committed: int) -> FailedPrecondition:
    return FailedPrecondition(
        "UPLOAD_INCOMPLETE",
        f"{upload.name} has {committed:,} of {upload.draft.size_bytes:,} bytes: resume from there",
        metadata={"committed_bytes": str(committed)},
    )
