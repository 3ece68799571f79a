"""
DeliveryService: converts and validates messages; the rules are in `model`, the SQL in `store`.
"""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.cdn.v1 import delivery_pb2 as pb
from modelyard.cdn.v1.delivery_pb2_grpc import DeliveryServiceServicer
from services.cdn.model.delivery import (
    Invalidation,
    InvalidationName,
    PresignedUrl,
    Terms,
    TtlBounds,
    parse_download_name,
    parse_ip_range,
    parse_paths,
    parse_version,
)
from services.cdn.model.names import parse_name
from services.cdn.model.static_files import StaticDraft, StaticFile, StaticName
from services.cdn.service.rights import Rights
from services.cdn.store.delivery.invalidations import InvalidationStore
from services.cdn.store.delivery.presigned_urls import PresignedUrls
from services.cdn.store.delivery.static_files import StaticFileStore
from services.chassis.checks import Checks
from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.serving.context import Context
from services.ledger.model.calls import etag
from services.ledger.service.calls import Mutations


class DeliveryService(DeliveryServiceServicer):
    """
    The servicer of modelyard.cdn.v1.DeliveryService.

    Args:
        static_files: the store of static files.
        links: presigns URLs.
        ttl_bounds: limits of their TTL.
        invalidations: the queue of invalidations.
        mutations: runs the writes of static files, which wait for the object store.
        quick: runs the other writes.
        rights: who may see which asset.
        has_edge: whether a CloudFront distribution is configured.
    """

    def __init__(
        self,
        static_files: StaticFileStore,
        links: PresignedUrls,
        ttl_bounds: TtlBounds,
        invalidations: InvalidationStore,
        mutations: Mutations,
        quick: Mutations,
        rights: Rights,
        *,
        has_edge: bool,
    ) -> None:
        self._static_files, self._links, self._ttl_bounds = static_files, links, ttl_bounds
        self._invalidations, self._mutations, self._has_edge = invalidations, mutations, has_edge
        self._quick, self._rights = quick, rights

    async def PutStaticFile(self, request: pb.PutStaticFileRequest, context: Context) -> pb.StaticFile:
        checks = Checks()
        name = checks.name(StaticName, "static_file.name", request.static_file.name)
        sha256 = _asset(checks, "static_file.asset", request.static_file.asset)
        asked = request.static_file
        draft = StaticDraft(sha256, asked.cache_control, asked.content_disposition, asked.content_type)
        draft.check(checks, "static_file")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        viewer = self._rights.viewer()
        return await self._mutations.do(
            context,
            request,
            pb.StaticFile,
            lambda tx: self._static_files.put(tx, name, draft, request.static_file.etag, viewer),
            from_static_file,
            touches=[name],
        )

    async def GetStaticFile(self, request: pb.GetStaticFileRequest, context: Context) -> pb.StaticFile:
        name = StaticName.parse(request.name)
        viewer = self._rights.viewer()
        return from_static_file(await self._rights.found(context, viewer, self._static_files.get(name, viewer)))

    async def DeleteStaticFile(
        self, request: pb.DeleteStaticFileRequest, context: Context
    ) -> pb.DeleteStaticFileResponse:
        checks = Checks()
        name = checks.name(StaticName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.DeleteStaticFileResponse,
            lambda tx: self._static_files.delete(tx, name),
            lambda _: pb.DeleteStaticFileResponse(),
            touches=[name],
        )

    async def SignUrl(self, request: pb.SignUrlRequest, context: Context) -> pb.SignUrlResponse:
        checks = Checks()
        target = request.WhichOneof("target")
        sha256 = version = ""
        if target == "asset":
            sha256 = _asset(checks, "asset", request.asset)
        elif target == "version":
            version = parse_version(checks, "version", request.version)
        else:
            checks.add("asset", "must be set, or `version`")
        terms = self._terms(checks, request)
        if version and terms.download_name:
            checks.add("download_name", "must be empty for a version: it has many files")
        checks.raise_if_any()
        viewer = self._rights.viewer(signing=True)
        sign = self._links.asset(sha256, terms, viewer) if sha256 else self._links.version(version, terms, viewer)
        return from_signed(await sign)

    async def InvalidatePaths(self, request: pb.InvalidatePathsRequest, context: Context) -> pb.Invalidation:
        checks = Checks()
        paths = parse_paths(checks, "paths", request.paths)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        if not self._has_edge:
            raise FailedPrecondition("NO_DISTRIBUTION", "set MODELYARD_CLOUDFRONT_DISTRIBUTION to invalidate paths")
        return await self._quick.do(
            context,
            request,
            pb.Invalidation,
            lambda tx: self._invalidations.queue(tx, paths),
            from_invalidation,
            touches=[],
        )

    async def GetInvalidation(self, request: pb.GetInvalidationRequest, context: Context) -> pb.Invalidation:
        return from_invalidation(await self._invalidations.get(InvalidationName.parse(request.name)))

    def _terms(self, checks: Checks, request: pb.SignUrlRequest) -> Terms:
        seconds = request.ttl.seconds if request.HasField("ttl") else None
        return Terms(
            self._ttl_bounds.check(checks, "ttl", seconds),
            parse_ip_range(checks, "ip_range", request.ip_range),
            parse_download_name(checks, "download_name", request.download_name),
        )


def _asset(checks: Checks, field: str, name: str) -> str:
    try:
        return parse_name(name, field)
    except InvalidArgument as error:
        checks.extend(error.violations)
        return ""


def from_static_file(found: StaticFile) -> pb.StaticFile:
    """
    The message of a static file.
    """
    update_time = Timestamp()
    update_time.FromDatetime(found.update_time)
    return pb.StaticFile(
        name=str(found.name),
        asset=f"assets/{found.draft.sha256}",
        cache_control=found.draft.cache_control,
        content_disposition=found.draft.content_disposition,
        content_type=found.draft.content_type,
        update_time=update_time,
        revision=found.revision,
        etag=etag(found.revision),
    )


def from_signed(signed: PresignedUrl) -> pb.SignUrlResponse:
    """
    The message of a presigned URL.
    """
    expire_time = Timestamp()
    expire_time.FromDatetime(signed.expire_time)
    return pb.SignUrlResponse(url=signed.url, expire_time=expire_time)


def from_invalidation(found: Invalidation) -> pb.Invalidation:
    """
    The message of an invalidation.
    """
    create_time = Timestamp()
    create_time.FromDatetime(found.create_time)
    return pb.Invalidation(
        name=str(found.name),
        state=pb.Invalidation.State.Value(f"STATE_{found.state}"),
        paths=found.paths,
        create_time=create_time,
        failure=found.failure,
    )
