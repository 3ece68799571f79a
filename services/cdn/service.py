"""
AssetService: messages in, messages out; decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceServicer
from services.cdn.model import Asset, Draft, Intake, Page, next_token, parse_digests, parse_name, parse_part
from services.cdn.store import AssetStore
from services.chassis.context import Context
from services.chassis.errors import InvalidArgument, Unimplemented


class AssetService(AssetServiceServicer):
    """
    The servicer of modelyard.cdn.v1.AssetService.
    """

    def __init__(self, assets: AssetStore) -> None:
        self._assets = assets

    async def GetAsset(self, request: pb.GetAssetRequest, context: Context) -> pb.Asset:
        return to_proto(await self._assets.get(parse_name(request.name)))

    async def ListAssets(self, request: pb.ListAssetsRequest, context: Context) -> pb.ListAssetsResponse:
        query = f"ListAssets {request.owner}"
        page = Page.parse(request.page_size, request.page_token, query)
        if request.owner:
            raise Unimplemented("NOT_IMPLEMENTED", "listing what an owner pins is not implemented yet")
        assets, last = await self._assets.list(page)
        token = next_token(last, query) if last else ""
        return pb.ListAssetsResponse(assets=map(to_proto, assets), next_page_token=token)

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:
        digests = parse_digests(list(request.sha256))
        return pb.FindMissingResponse(sha256=await self._assets.missing(digests))

    async def Upload(self, request_iterator: AsyncIterator[pb.UploadRequest], context: Context) -> pb.Asset:
        messages = aiter(request_iterator)
        draft = await _header(messages)
        stored = await self._assets.find(draft.sha256)
        if stored is not None:
            draft.check_size(stored.size_bytes)
            return to_proto(stored)
        async with self._assets.write(draft) as writer:
            async for data in _chunks(messages, draft):
                await writer.write(data)
            await writer.finish()
        return to_proto(await self._assets.get(draft.sha256))

    async def Download(self, request: pb.DownloadRequest, context: Context) -> AsyncIterator[pb.DownloadResponse]:
        sha256, span = parse_part(request.name, request.offset, request.limit)
        if request.tensor:
            raise Unimplemented("NOT_IMPLEMENTED", "downloading a single tensor is not implemented yet")
        reader = self._assets.read(sha256, span)
        async with aclosing(reader.pieces()) as pieces:
            async for offset, data in pieces:
                yield pb.DownloadResponse(chunk=pb.Chunk(offset=offset, data=data))
        context.set_trailing_metadata((*context.trailing_metadata(), ("x-sha256", reader.sha256)))


async def _header(messages: AsyncIterator[pb.UploadRequest]) -> Draft:
    async for message in messages:
        if message.WhichOneof("part") != "header":
            break
        header = message.header
        return Draft.parse(header.sha256, header.size_bytes, header.media_type)
    raise InvalidArgument.of("header", "must be the first message of the stream")


async def _chunks(messages: AsyncIterator[pb.UploadRequest], draft: Draft) -> AsyncIterator[bytes]:
    intake = Intake(draft)
    async for message in messages:
        part = message.WhichOneof("part")
        if part == "header":
            raise InvalidArgument.of("header", "must be in the first message only")
        if part is None:
            raise InvalidArgument.of("chunk", "must be set in every message but the first")
        intake.accept(message.chunk.offset, len(message.chunk.data))
        yield message.chunk.data
    intake.finish()


def to_proto(asset: Asset) -> pb.Asset:
    """
    The message of an asset.
    """
    create_time = Timestamp()
    create_time.FromDatetime(asset.create_time)
    return pb.Asset(
        name=asset.name,
        sha256=asset.sha256,
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        create_time=create_time,
    )
