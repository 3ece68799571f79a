"""
VersionService.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial

from modelyard.registry.v1 import versions_pb2 as pb
from modelyard.registry.v1.versions_pb2_grpc import VersionServiceServicer
from services.chassis.access.policies import EVERYTHING
from services.chassis.checks import Checks
from services.chassis.deadlines import remaining
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.field_masks import check_mask, fields
from services.registry.model.names import ModelName, NamespaceName, VersionName
from services.registry.model.oci import DIGEST
from services.registry.model.references import Reference
from services.registry.model.search.filter_fields import version_field_of
from services.registry.model.search.filter_parser import parse_filter
from services.registry.model.search.version_searches import VersionSearch, parse_version_order
from services.registry.model.versions import (
    FIELDS,
    MUTABLE,
    SHA256,
    AssetQuery,
    VersionDeletion,
    VersionDraft,
    VersionUpdate,
    check_paths,
)
from services.registry.service.assets import Assets
from services.registry.service.parsing import to_version_draft
from services.registry.service.pins import Pins
from services.registry.service.rendering import (
    from_alias,
    from_match,
    from_oci_blob,
    from_oci_manifest,
    from_version,
)
from services.registry.service.version_copies import VersionCopies
from services.registry.service.visibility import Visibility
from services.registry.store.oci import OciStore
from services.registry.store.search.versions import VersionSearchStore
from services.registry.store.version_deletion import VersionDeletions
from services.registry.store.versions import VersionStore
from services.registry.store.versions_by_asset import VersionsByAssetStore

# Checking a path of 768 bytes takes 0.1 ms. The 10,000 that a version may have must not block other calls.
_MANY = 500
_TAGS, _MOST_TAGS = 1000, 10_000
_EVERYWHERE = "namespaces/-"


class VersionService(VersionServiceServicer):
    """
    The servicer of modelyard.registry.v1.VersionService.
    """

    def __init__(
        self,
        versions: VersionStore,
        deletions: VersionDeletions,
        containing: VersionsByAssetStore,
        searches: VersionSearchStore,
        oci: OciStore,
        assets: Assets,
        pins: Pins,
        mutations: Mutations,
        visibility: Visibility,
    ) -> None:
        self._visibility = visibility
        self._versions = versions
        self._assets = assets
        self._pins = pins
        self._mutations = mutations
        self._deletions = deletions
        self._containing = containing
        self._searches = searches
        self._oci = oci
        self._copying = VersionCopies(versions, pins, mutations)

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        draft = to_version_draft(request.version)
        await _check(checks, draft)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._versions.create(tx, parent, draft),
            from_version,
            touches=[parent],
        )

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.Version:
        name = VersionName.parse(request.name)
        return from_version((await reflect(context, self._versions.get(name))).value)

    async def ResolveVersion(self, request: pb.ResolveVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        reference = Reference.check(checks, "reference", request.reference)
        checks.raise_if_any()
        return from_version((await reflect(context, self._versions.resolve(parent, reference))).value)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        parts = (request.parent, *(["deleted"] if request.show_deleted else []))
        page = Page.check(checks, Query("ListVersions", parts, (int,)), request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._versions.list_page(parent, page, deleted=request.show_deleted))
        return pb.ListVersionsResponse(versions=map(from_version, found.items), next_page_token=found.token)

    async def FinalizeVersion(self, request: pb.FinalizeVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        name = checks.name(VersionName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        # A retry gets the first response, even if the version has changed since.
        if (earlier := await self._mutations.earlier(context, request, pb.Version)) is not None:
            return earlier
        version = (await self._versions.get_now(name)).value
        check_paths(version)
        # Outside of the transaction: no row lock may be held during a call to another service.
        await self._assets.verify(version)
        claim = await self._pins.pin(version)
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._versions.finalize(tx, version, claim),
            from_version,
            touches=[name.parent],
        )

    async def UpdateVersion(self, request: pb.UpdateVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        name = checks.name(VersionName, "version.name", request.version.name)
        paths = check_mask(checks, request.update_mask.paths, MUTABLE)
        draft = to_version_draft(request.version)
        await _check(checks, draft, fields(paths))
        checks.request_id(request.request_id)
        checks.raise_if_any()
        update = VersionUpdate(name, draft, paths, request.version.etag)
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._versions.update(tx, update),
            from_version,
            touches=[name.parent],
        )

    async def FailVersion(self, request: pb.FailVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        name = checks.name(VersionName, "name", request.name)
        failure = checks.text("failure", request.failure, 1024)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._versions.fail(tx, name, failure),
            from_version,
            touches=[name.parent],
        )

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        name = checks.name(VersionName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        deletion = VersionDeletion(name, request.etag, request.force)
        if not request.validate_only:
            await self._mutations.before(context, request, partial(self._deletions.prepare, deletion))
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._deletions.delete(tx, deletion),
            from_version,
            touches=[name.parent],
            dry=request.validate_only,
        )

    async def CopyVersion(self, request: pb.CopyVersionRequest, context: Context) -> pb.Version:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        source = checks.name(VersionName, "source", request.source)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._copying.copy(context, request, parent, source)

    async def SearchVersions(self, request: pb.SearchVersionsRequest, context: Context) -> pb.SearchVersionsResponse:
        checks = Checks()
        parent: NamespaceName | ModelName
        if "/models/" in request.parent:
            parent = checks.name(ModelName, "parent", request.parent)
        else:
            parent = checks.name(NamespaceName, "parent", request.parent)
        condition = parse_filter(checks, "filter", request.filter, version_field_of)
        order = parse_version_order(checks, "order_by", request.order_by)
        search = VersionSearch(parent, condition, order, request.view == pb.VERSION_VIEW_FULL)
        query = Query("SearchVersions", (request.parent, request.filter, request.order_by), search.key_types)
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._searches.search(search, page, remaining()))
        return pb.SearchVersionsResponse(
            versions=map(from_version, found.versions.items),
            next_page_token=found.versions.token,
            aliases=map(from_alias, found.aliases),
        )

    async def GetOciManifest(self, request: pb.GetOciManifestRequest, context: Context) -> pb.OciManifest:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        reference: Reference | str = request.reference
        if ":" in request.reference:
            checks.matches("reference", request.reference, DIGEST)
        else:
            reference = Reference.check(checks, "reference", request.reference)
        checks.raise_if_any()
        return from_oci_manifest((await reflect(context, self._oci.manifest(parent, reference))).value)

    async def GetOciBlob(self, request: pb.GetOciBlobRequest, context: Context) -> pb.OciBlob:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        wanted = checks.matches("digest", request.digest, DIGEST)
        checks.raise_if_any()
        return from_oci_blob((await reflect(context, self._oci.blob(parent, wanted))).value)

    async def GetOciTags(self, request: pb.GetOciTagsRequest, context: Context) -> pb.OciTags:
        checks = Checks()
        parent = checks.name(ModelName, "parent", request.parent)
        after = checks.text("after", request.after, 255)
        checks.count("limit", request.limit)
        checks.raise_if_any()
        limit = min(request.limit or _TAGS, _MOST_TAGS)
        found = (await reflect(context, self._oci.tags(parent, after, limit + 1))).value
        return pb.OciTags(tags=found[:limit], more=len(found) > limit)

    async def FindVersions(self, request: pb.FindVersionsRequest, context: Context) -> pb.FindVersionsResponse:
        checks = Checks()
        parent = None
        if request.parent != _EVERYWHERE:
            parent = checks.name(NamespaceName, "parent", request.parent)
        wanted = AssetQuery(parent, checks.matches("sha256", request.sha256, SHA256))
        query = Query("FindVersions", (request.parent, request.sha256), (int, int))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        readable = EVERYTHING if parent is not None else self._visibility.readable(context, "versions.read")
        found = await reflect(context, self._containing.find(wanted, page, readable, remaining()))
        return pb.FindVersionsResponse(matches=map(from_match, found.items), next_page_token=found.token)


async def _check(checks: Checks, draft: VersionDraft, only: Collection[str] = FIELDS) -> None:
    if len(draft.artifacts) > _MANY:
        await asyncio.to_thread(draft.check, checks, "version", only)
    else:
        draft.check(checks, "version", only)
