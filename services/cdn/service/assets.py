"""
AssetService: converts and validates messages; the rules are in `model`, the SQL in `store`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceServicer
from services.cdn.model import (
    MOST_STREAM,
    Asset,
    ChunkSequence,
    Draft,
    Span,
    check_owner,
    parse_digests,
    parse_name,
    parse_names,
    parse_part,
)
from services.cdn.service.callers import caller
from services.cdn.service.registration import Registration
from services.cdn.service.rendering import from_asset, from_index, serialized_chunk
from services.cdn.service.rights import Rights
from services.cdn.service.upload_streams import StreamLimits, UploadStream, check_chunk
from services.cdn.store.assets import AssetStore
from services.cdn.store.metadata.tensor_indexes import TensorIndexCache
from services.cdn.store.records import Records
from services.cdn.store.retention.garbage_collection import GarbageCollector, GracePeriods
from services.cdn.store.retention.pins import Pins
from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument, NotFound, OutOfRange
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect, subject

#: More than any indexed header has.
_MOST_TENSORS = 1_000_000
#: Maximum duration of a CollectGarbage call, well within a client's deadline.
_COLLECT_SECONDS = 5.0


class AssetService(AssetServiceServicer):
    """
    The servicer of modelyard.cdn.v1.AssetService.

    Args:
        assets: the byte store.
        records: of assets.
        pins: references to assets.
        collection: deletes unpinned assets.
        registration: makes assets visible.
        mutations: runs the writes.
        rights: who may see which asset.
        grace: periods of the garbage collection.
        patience: limits for slow streams.
    """

    def __init__(
        self,
        assets: AssetStore,
        records: Records,
        pins: Pins,
        collection: GarbageCollector,
        registration: Registration,
        mutations: Mutations,
        rights: Rights,
        grace: GracePeriods,
        patience: StreamLimits,
    ) -> None:
        self._assets = assets
        self._records = records
        self._indexes = TensorIndexCache(records)
        self._pins = pins
        self._collection = collection
        self._registration = registration
        self._mutations = mutations
        self._rights = rights
        self._grace = grace
        self._patience = patience

    async def GetAsset(self, request: pb.GetAssetRequest, context: Context) -> pb.Asset:
        sha256, viewer = parse_name(request.name), self._rights.viewer()
        return from_asset(await self._rights.read(context, viewer, self._records, sha256))

    async def ListAssets(self, request: pb.ListAssetsRequest, context: Context) -> pb.ListAssetsResponse:
        checks = Checks()
        if request.owner:
            check_owner(checks, "owner", request.owner)
        page = Page.check(checks, Query("ListAssets", (request.owner,), (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        listing = self._records.list_page(page, request.owner, self._rights.viewer())
        found = await reflect(context, listing)
        return pb.ListAssetsResponse(assets=map(from_asset, found.items), next_page_token=found.token)

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:
        digests = parse_digests(list(request.sha256))
        found = await self._records.stored(digests, self._rights.viewer())
        public = [digest for digest in digests if request.private and found.get(digest) is False]
        return pb.FindMissingResponse(sha256=[digest for digest in digests if digest not in found], public=public)

    async def Upload(self, request_iterator: AsyncIterator[pb.UploadRequest], context: Context) -> pb.Asset:
        messages = UploadStream(request_iterator, self._patience, longest=MOST_STREAM.total_seconds())
        header, draft = await _header(messages)
        self._rights.check_upload(private=draft.private)
        stored = await self._registration.find_stored(context, draft)
        if stored is not None:
            return stored
        async with self._assets.write(draft, caller().client) as writer:
            async for data in _chunks(messages, draft):
                await writer.write(data)
            verified = await writer.finish()
        return await self._registration.register(context, header, verified)

    async def Download(  # type: ignore[override] # serialised already
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[bytes]:
        sha256, span = parse_part(request.name, request.offset, request.limit)
        viewer = self._rights.viewer()
        asset = await self._rights.read(context, viewer, self._records, sha256)
        start, span = await self._wanted(asset, request.tensor, span)
        reader = self._assets.read(asset, span, hashing=not request.without_digest)
        async with aclosing(reader.pieces()) as pieces:
            async for offset, data in pieces:
                viewer = await self._rights.still_sees(self._records, sha256, viewer)
                yield serialized_chunk(offset - start, data)
        if reader.sha256 is not None:
            context.set_trailing_metadata((*context.trailing_metadata(), ("x-sha256", reader.sha256)))

    async def GetTensorIndex(self, request: pb.GetTensorIndexRequest, context: Context) -> pb.TensorIndex:
        checks = Checks()
        sha256 = parse_name(request.name)
        query = Query("GetTensorIndex", (sha256,), (int,))
        page = Page.check(checks, query, request.page_size, request.page_token, usual=_MOST_TENSORS, most=_MOST_TENSORS)
        checks.raise_if_any()
        await self._rights.read(context, self._rights.viewer(), self._records, sha256)
        return from_index(*await self._indexes.page(page, sha256))

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.PinResponse:
        digests = parse_names(list(request.names))
        owner, viewer = _owner(request.owner, request.request_id), self._rights.viewer()
        return await self._mutations.do(
            context,
            request,
            pb.PinResponse,
            lambda tx: self._pins.add(tx, owner, digests, viewer),
            lambda count: pb.PinResponse(pinned_count=count),
            # Locks many rows, so no group commit (see pins.py).
            touches=None,
        )

    async def Unpin(self, request: pb.UnpinRequest, context: Context) -> pb.UnpinResponse:
        digests = parse_names(list(request.names), least=0)
        owner = _owner(request.owner, request.request_id)
        return await self._mutations.do(
            context,
            request,
            pb.UnpinResponse,
            lambda tx: self._pins.remove(tx, owner, digests),
            lambda count: pb.UnpinResponse(unpinned_count=count),
            # Its rows are not known in advance, so no group commit.
            touches=None,
        )

    async def DeleteAsset(self, request: pb.DeleteAssetRequest, context: Context) -> pb.DeleteAssetResponse:
        checks = Checks()
        checks.request_id(request.request_id)
        checks.raise_if_any()
        sha256 = parse_name(request.name)
        return await self._mutations.do(
            context,
            request,
            pb.DeleteAssetResponse,
            lambda tx: self._records.condemn(tx, sha256),
            lambda _: pb.DeleteAssetResponse(),
            touches=[request.name],
        )

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        query = Query("CollectGarbage", (), (str,))
        after = query.position(request.page_token) if request.page_token else ("",)
        if after is None:
            raise InvalidArgument.of("page_token", "is not a page token of this method")
        grace = self._grace
        if request.HasField("grace"):
            idle = timedelta(seconds=request.grace.seconds, microseconds=request.grace.nanos // 1000)
            if idle < self._grace.least:
                rule = f"must be at least {self._grace.least.total_seconds():g} s, the configured minimum"
                raise InvalidArgument.of("grace", rule)
            grace = GracePeriods(idle, self._grace.condemned, self._grace.least)
        found = await self._collection.collect(
            grace, dry=request.dry_run, actor=subject(context), after=str(after[0]), seconds=_COLLECT_SECONDS
        )
        return pb.CollectGarbageResponse(
            condemned_count=found.condemned_count,
            condemned_bytes=found.condemned_bytes,
            deleted_count=found.deleted_count,
            deleted_bytes=found.deleted_bytes,
            names=found.names,
            failed_count=found.failed_count,
            next_page_token=query.token([found.after]) if found.after else "",
        )

    async def GetStorageTotals(
        self, request: pb.GetStorageTotalsRequest, context: Context
    ) -> pb.GetStorageTotalsResponse:
        checks = Checks()
        prefix = checks.text("owner_prefix", request.owner_prefix, 1024)
        page = Page.check(checks, Query("GetStorageTotals", (prefix,), (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        found = await self._pins.totals(page, prefix, self._rights.viewer())
        return pb.GetStorageTotalsResponse(
            asset_count=found.assets,
            stored_bytes=found.bytes,
            owners=[
                pb.GetStorageTotalsResponse.OwnerTotal(owner=one.owner, asset_count=one.assets, bytes=one.bytes)
                for one in found.owners.items
            ],
            next_page_token=found.owners.token,
        )

    async def _wanted(self, asset: Asset, name: str, span: Span) -> tuple[int, Span]:
        """
        Resolve a range of a tensor, or of the file if no tensor is named: its start, and the range within the file.
        """
        if not name:
            return 0, span
        tensor = (await self._indexes.get(asset.sha256)).by_name.get(name)
        if tensor is None:
            raise NotFound("TENSOR_NOT_FOUND", f"{asset.name}/tensors/{name[:200]}")
        if span.offset > tensor.size_bytes:
            raise OutOfRange(
                "OFFSET_PAST_END", f"offset {span.offset} is past the end of a tensor of {tensor.size_bytes} bytes"
            )
        return tensor.offset, span.within(tensor.offset, tensor.size_bytes)


def _owner(owner: str, request_id: str) -> str:
    checks = Checks()
    check_owner(checks, "owner", owner)
    checks.request_id(request_id)
    checks.raise_if_any()
    return owner


async def _header(messages: AsyncIterator[pb.UploadRequest]) -> tuple[pb.UploadRequest, Draft]:
    async for message in messages:
        if message.WhichOneof("part") != "header":
            break
        header = message.header
        return message, Draft.parse(
            header.sha256,
            header.size_bytes,
            header.media_type,
            header.owner,
            private=header.private,
            where="header.",
        )
    raise InvalidArgument.of("header", "must be the first message of the stream")


async def _chunks(messages: AsyncIterator[pb.UploadRequest], draft: Draft) -> AsyncIterator[bytes]:
    intake = ChunkSequence(draft)
    async for message in messages:
        part = message.WhichOneof("part")
        if part == "header":
            raise InvalidArgument.of("header", "must be in the first message only")
        if part is None:
            raise InvalidArgument.of("chunk", "must be set in every message but the first")
        # Each access to the field copies the bytes.
        chunk, data = message.chunk, message.chunk.data
        if not data:
            continue
        intake.accept(chunk.offset, len(data))
        check_chunk(chunk, data)
        yield data
    intake.finish()
