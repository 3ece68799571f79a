"""
UploadService: resumable uploads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from google.protobuf.duration_pb2 import Duration

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceServicer
from services.cdn.model import MAX_CHUNK_BYTES, Draft, Upload, UploadWay, parse_upload
from services.cdn.service.callers import caller
from services.cdn.service.registration import Registration
from services.cdn.service.rendering import from_asset, from_stored, from_upload
from services.cdn.service.rights import Rights
from services.cdn.service.upload_streams import StreamLimits, UploadStream, check_chunk
from services.cdn.store.assets import AssetStore
from services.cdn.store.records import Records
from services.cdn.store.uploads.completion import UploadCompleter
from services.cdn.store.uploads.resumable import UploadWriter, begin
from services.cdn.store.uploads.sessions import UploadSessions, check_way
from services.chassis.errors import InvalidArgument, NotFound, OutOfRange, Violations
from services.chassis.serving.context import Context
from services.ledger.model.calls import Missing
from services.ledger.service.calls import say_revision

_LEAST_TTL, _USUAL_TTL, _MOST_TTL = 60, 3600, 12 * 3600
_MOST_URLS = 1000


class UploadService(UploadServiceServicer):
    """
    The servicer of modelyard.cdn.v1.UploadService.

    Args:
        assets: the byte store.
        records: of assets.
        uploads: the upload sessions.
        completer: verifies and completes them.
        registration: makes assets visible.
        rights: who may see which asset.
        patience: limits for slow streams.
    """

    def __init__(
        self,
        assets: AssetStore,
        records: Records,
        uploads: UploadSessions,
        completer: UploadCompleter,
        registration: Registration,
        rights: Rights,
        patience: StreamLimits,
    ) -> None:
        self._assets = assets
        self._records = records
        self._uploads = uploads
        self._completer = completer
        self._registration = registration
        self._rights = rights
        self._patience = patience

    async def StartUpload(self, request: pb.StartUploadRequest, context: Context) -> pb.Upload:
        draft = Draft.parse(
            request.sha256, request.size_bytes, request.media_type, request.owner, private=request.private, where=""
        )
        self._rights.check_upload(private=draft.private)
        who = caller()
        if await self._registration.find_stored(context, draft) is not None:
            # Not counted against the limits, so that a stored asset can always be pushed again.
            name, left = await self._uploads.stored(draft, who)
            if left is not None:
                self._assets.chores.add(self._completer.clean(left))
            return from_stored(name, draft)
        upload = await self._uploads.open(draft, who)
        return from_upload(upload, await self._completer.committed_bytes(upload))

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.Upload:
        upload = await self._own(request.name, context)
        return from_upload(upload, await self._completer.committed_bytes(upload))

    async def WriteUpload(self, request_iterator: AsyncIterator[pb.WriteUploadRequest], context: Context) -> pb.Upload:
        messages = UploadStream(request_iterator, self._patience)
        first = await anext(messages, None)
        if first is None:
            raise InvalidArgument.of("name", "must be in the first message of the stream")
        upload = await self._own(first.name, context)
        # No multipart upload before the first byte.
        name, lease = upload.name, self._uploads.lease.total_seconds()
        while first is not None and not first.chunk.data:
            _check_name(first, name)
            first = await anext(messages, None)
        upload = await self._taken(upload, begins=first is not None)
        memory, chores = self._assets.memory.of(caller().client), self._assets.chores
        async with UploadWriter(
            self._assets.bucket, self._uploads, upload, memory, chores, lambda: messages.quiet < lease
        ) as writer:
            try:
                if first is not None:
                    await _take(first, writer)
                async for message in messages:
                    await _take(message, writer)
                upload = await writer.finish()
            except InvalidArgument as error:
                if error.reason == "SAFETENSORS_INVALID":
                    await self._completer.give_up(writer.upload.id, writer.upload.writer)
                raise
        return from_upload(replace(upload, in_use=False), upload.committed_bytes)

    async def CreateUploadUrls(
        self, request: pb.CreateUploadUrlsRequest, context: Context
    ) -> pb.CreateUploadUrlsResponse:
        upload = await self._own(request.name, context)
        seconds = _check_urls(request, upload)
        check_way(upload, UploadWay.DIRECT)
        upload = await begin(self._assets.bucket, self._uploads, upload, UploadWay.DIRECT)
        numbers = list(request.part_numbers)
        urls = [
            pb.CreateUploadUrlsResponse.PartUrl(
                part_number=number, url=url, headers={"content-length": str(upload.part_size(number))}
            )
            for number, url in zip(numbers, await self._assets.part_urls.sign(upload, numbers, seconds), strict=True)
        ]
        return pb.CreateUploadUrlsResponse(urls=urls)

    async def FinishUpload(self, request: pb.FinishUploadRequest, context: Context) -> assets_pb2.Asset:
        name = parse_upload(request.name)
        if (asset := await self._finished(name, context)) is not None:
            return asset
        try:
            return await self._finish(name, request, context)
        except NotFound:
            # Another call may have finished it meanwhile.
            if (asset := await self._finished(name, context)) is None:
                raise
            return asset

    async def AbortUpload(self, request: pb.AbortUploadRequest, context: Context) -> pb.AbortUploadResponse:
        with suppress(NotFound):
            await self._completer.give_up((await self._own(request.name, context)).id)
        return pb.AbortUploadResponse()

    async def _own(self, name: str, context: Context) -> Upload:
        """
        Raises:
            NotFound: there is no such upload.
            PermissionDenied: it was started by another subject.
        """
        upload = await self._uploads.get(parse_upload(name))
        upload.check_subject(caller())
        return upload

    async def _finished(self, name: str, context: Context) -> assets_pb2.Asset | None:
        sha256 = await self._uploads.was_finished(name)
        if sha256 is None:
            return None
        # The name of a stored asset's upload follows from the digest, so it proves nothing.
        try:
            found = await self._records.get_now(sha256, self._rights.viewer())
        except Missing:
            return None
        say_revision(context, found.revision)
        return from_asset(found.value)

    async def _finish(self, name: str, request: pb.FinishUploadRequest, context: Context) -> assets_pb2.Asset:
        (await self._uploads.get(name)).check_subject(caller())
        async with self._completer.claimed(name) as upload:
            asset = await self._registration.find_stored(context, upload.draft)
            if asset is None:
                verified = await self._completer.verify(upload)
                asset = await self._registration.register(context, request, verified)
            await self._completer.finished(upload)
        return asset

    async def _taken(self, upload: Upload, *, begins: bool) -> Upload:
        check_way(upload, UploadWay.STREAM)
        upload = await self._uploads.acquire_lease(upload.id)
        if not begins or not upload.draft.size_bytes:
            return upload
        try:
            return await begin(self._assets.bucket, self._uploads, upload, UploadWay.STREAM)
        except BaseException:
            self._assets.chores.add(self._uploads.release_lease(upload))
            raise


async def _take(message: pb.WriteUploadRequest, writer: UploadWriter) -> None:
    """
    Write the bytes of a message, which must start where the previous one ended.
    """
    _check_name(message, writer.upload.name)
    # Each access to the field copies the bytes.
    chunk, data = message.chunk, message.chunk.data
    if not data:
        return
    received, size = writer.received, writer.upload.draft.size_bytes
    if len(data) > MAX_CHUNK_BYTES:
        raise InvalidArgument.of("chunk.data", f"must be at most {MAX_CHUNK_BYTES} bytes")
    if chunk.offset != received:
        raise OutOfRange(
            "OFFSET_GAP",
            f"the chunk begins at {chunk.offset}, but {writer.upload.name} has received {received} bytes",
            metadata={"committed_bytes": str(writer.upload.committed_bytes), "received_bytes": str(received)},
        )
    if received + len(data) > size:
        raise InvalidArgument.of("chunk.data", f"goes past the declared size, {size} bytes")
    check_chunk(chunk, data)
    await writer.write(data)


def _check_name(message: pb.WriteUploadRequest, name: str) -> None:
    if message.name and message.name != name:
        raise InvalidArgument.of("name", "must be that of the first message, or empty")


def _check_urls(request: pb.CreateUploadUrlsRequest, upload: Upload) -> int:
    wrong = Violations()
    if not 1 <= len(request.part_numbers) <= _MOST_URLS:
        wrong.add("part_numbers", f"must hold 1 to {_MOST_URLS}")
    for place, number in enumerate(request.part_numbers):
        if not 1 <= number <= upload.part_count and len(wrong) < 10:
            wrong.add(f"part_numbers[{place}]", f"must be from 1 to {upload.part_count}")
    ttl: Duration = request.ttl
    seconds = ttl.seconds if request.HasField("ttl") else _USUAL_TTL
    if not _LEAST_TTL <= seconds <= _MOST_TTL:
        wrong.add("ttl", "must be from 1 min to 12 h")
    wrong.raise_if_any()
    return seconds
