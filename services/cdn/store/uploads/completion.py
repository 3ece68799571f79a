"""
Verifies an upload whose bytes are all there, and puts them under the asset's key.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from services.cdn.model import Draft, Span, Upload, UploadWay, staging_key
from services.cdn.model.formats import HEAD_BYTES, Inspection
from services.cdn.store.assets import AssetStore
from services.cdn.store.metadata.inspection import inspect_bytes, scan_object
from services.cdn.store.objects.bucket import Part
from services.cdn.store.objects.s3 import AlreadyExists, NoSuchKey
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.uploads.digests import Digest
from services.cdn.store.uploads.multipart import abort
from services.cdn.store.uploads.sessions import UploadSessions
from services.chassis.errors import Aborted, FailedPrecondition, InvalidArgument, ModelyardError, NotFound
from services.chassis.serving.background import begin

_PIECE = 4 << 20
# When a process dies while it finishes an upload, nobody else can for so long. That is said again so often that it
# outlasts a pause of the event loop or of the database; should a longer one let another in, the work is done twice.
_CLAIM_SECONDS, _SAID_AGAIN_SECONDS = 15.0, 3.0


class _PartsReplaced(Aborted):
    """
    What was stored of an upload is not all of one writer.
    """

    def __init__(self, upload: Upload) -> None:
        super().__init__("PARTS_REPLACED", f"parts of {upload.name} were replaced by another writer: begin again")


class UploadCompleter:
    """
    Finishes uploads.

    Args:
        assets: the bytes.
        records: reserves the keys.
        uploads: knows how far uploads are.
    """

    def __init__(self, assets: AssetStore, records: Records, uploads: UploadSessions) -> None:
        self._assets, self._records, self._uploads = assets, records, uploads
        self._bucket = assets.bucket

    @asynccontextmanager
    async def claimed(self, name: str) -> AsyncIterator[Upload]:
        """
        Be the only one who finishes an upload while the block lasts. An upload whose bytes are wrong goes with it.

        Raises:
            NotFound: there is no such upload, or the object store does not have its bytes any more.
            Aborted: somebody else is finishing it.
        """
        upload = await self._uploads.claim(name, _CLAIM_SECONDS)
        keeping = begin(self._keep(upload))
        try:
            yield upload
        except (InvalidArgument, _PartsReplaced):
            await self.give_up(upload.id)
            raise
        except NoSuchKey:
            # Given up meanwhile, or the object store has forgotten the parts: there is nothing to go on with.
            await self.give_up(upload.id)
            raise NotFound("UPLOAD_NOT_FOUND", upload.name) from None
        except Exception:
            await self._uploads.let_go(upload)
            raise
        except BaseException:
            # Nobody waits any more.
            self._assets.chores.add(self._uploads.let_go(upload))
            raise
        finally:
            keeping.cancel()

    async def verify(self, upload: Upload) -> VerifiedBytes:
        """
        Check size and digest, and complete the bytes under the asset's key.

        Raises:
            FailedPrecondition: bytes are missing (UPLOAD_INCOMPLETE).
            InvalidArgument: they have another digest or size (DIGEST_MISMATCH, SIZE_MISMATCH), or the header of a
                safetensors file does not fit its bytes.
            Aborted: a writer that was overtaken has replaced some (PARTS_REPLACED).
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
        The asset is visible: remember it, and take the rest away.
        """
        await self._uploads.finished(upload.id, upload.draft.sha256)
        self._assets.chores.add(self.clean(upload))

    async def give_up(self, upload: str, writer: int | None = None) -> None:
        """
        Forget an upload and what it left in S3.

        Args:
            writer: give it up only if that is still who writes.
        """
        dropped = await self._uploads.drop(upload, writer)
        if dropped is not None:
            self._assets.chores.add(self.clean(dropped))

    async def clean(self, upload: Upload) -> None:
        """
        Take away what an upload left in S3 that is no asset.
        """
        if upload.multipart:
            await abort(self._bucket, upload.key, upload.multipart)
        if upload.way is UploadWay.DIRECT or upload.staged:
            await self._bucket.delete([staging_key(upload.id)])

    async def committed_bytes(self, upload: Upload) -> int:
        """
        How many bytes of an upload are stored for good, without a gap.
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
        # It was completed, and not verified yet.
        return upload.draft.size_bytes

    async def _keep(self, upload: Upload) -> None:
        ours = True
        while ours:
            await asyncio.sleep(_SAID_AGAIN_SECONDS)
            with suppress(ModelyardError):
                ours = await self._uploads.keep_claim(upload, _CLAIM_SECONDS)

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
        Make the recorded parts an object. S3 refuses parts with other etags than those of the list, and not every
        server that is like it does: a writer that was overtaken may have sent other bytes in the place of a part.
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
            Whether what is under the key now may be of these parts.
        """
        try:
            await self._bucket.complete(upload.key, upload.multipart, parts)
        except AlreadyExists:
            # Stored by another upload of the same bytes; what is open of this one is cleaned away.
            return False
        except NoSuchKey:
            # The first try went through and its answer was lost: a retry finds no such upload, but the object.
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
            # Complete already.
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
    The etag of an object that was made of parts: the MD5 of their MD5s and their number, as S3 and most servers that
    are like it have it; None where a part's etag is no MD5 (encrypted buckets).
    """
    if not all(re.fullmatch(r"[0-9a-f]{32}", part.etag) for part in parts):
        return None
    sums = b"".join(bytes.fromhex(part.etag) for part in parts)
    return f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _incomplete(upload: Upload, committed: int) -> FailedPrecondition:
    return FailedPrecondition(
        "UPLOAD_INCOMPLETE",
        f"{upload.name} has {committed:,} of {upload.draft.size_bytes:,} bytes: go on from there",
        metadata={"committed_bytes": str(committed)},
    )
