"""
The registry as the doors read it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from modelyard.registry.v1 import aliases_pb2, models_pb2, policies_pb2, versions_pb2
from services.chassis.errors import NotFound
from services.doors.store.suite import Suite

_MODELS = "/modelyard.registry.v1.ModelService"
_VERSIONS = "/modelyard.registry.v1.VersionService"
_ALIASES = "/modelyard.registry.v1.AliasService"
_POLICIES = "/modelyard.registry.v1.PolicyService"
_PAGE = 1000


class Registry:
    """
    Reads of models, versions and aliases. Every method raises grpc.aio.AioRpcError as the registry answered.

    Args:
        suite: where it is.
    """

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    async def may(self, permission: str, namespace: str, token: str) -> bool:
        """
        Whether the caller has a permission in a namespace.
        """
        request = policies_pb2.TestPermissionsRequest(resource=namespace, permissions=[permission])
        found = await self._suite.call(
            f"{_POLICIES}/TestPermissions", request, policies_pb2.TestPermissionsResponse, token
        )
        return permission in found.permissions

    async def model(self, name: str, token: str) -> models_pb2.Model:
        """
        A model by its name, namespaces/{namespace}/models/{model}.

        Raises:
            NotFound: it is deleted (MODEL_NOT_FOUND).
        """
        request = models_pb2.GetModelRequest(name=name)
        model = await self._suite.call(f"{_MODELS}/GetModel", request, models_pb2.Model, token)
        # The registry tells of a deleted model until it is purged.
        if model.HasField("delete_time"):
            raise NotFound("MODEL_NOT_FOUND", name)
        return model

    async def resolve(self, model: str, reference: str, token: str) -> versions_pb2.Version:
        """
        The version that an alias, a number or `latest` names: by its number in any state, else a READY one.
        """
        request = versions_pb2.ResolveVersionRequest(parent=model, reference=reference)
        return await self._suite.call(f"{_VERSIONS}/ResolveVersion", request, versions_pb2.Version, token)

    async def versions(self, model: str, token: str) -> AsyncIterator[versions_pb2.Version]:
        """
        The versions of a model, newest first, without their artifacts.
        """
        request = versions_pb2.ListVersionsRequest(parent=model, page_size=_PAGE)
        while True:
            page = await self._suite.call(
                f"{_VERSIONS}/ListVersions", request, versions_pb2.ListVersionsResponse, token
            )
            for version in page.versions:
                yield version
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def aliases(self, model: str, token: str) -> AsyncIterator[aliases_pb2.Alias]:
        """
        The aliases of a model.
        """
        request = aliases_pb2.ListAliasesRequest(parent=model, page_size=_PAGE)
        while True:
            page = await self._suite.call(f"{_ALIASES}/ListAliases", request, aliases_pb2.ListAliasesResponse, token)
            for alias in page.aliases:
                yield alias
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def oci_tags(self, model: str, after: str, limit: int, token: str) -> versions_pb2.OciTags:
        """
        The tags of a model's OCI artifacts after a text.
        """
        request = versions_pb2.GetOciTagsRequest(parent=model, after=after, limit=limit)
        return await self._suite.call(f"{_VERSIONS}/GetOciTags", request, versions_pb2.OciTags, token)

    async def oci_manifest(self, model: str, reference: str, token: str) -> versions_pb2.OciManifest:
        """
        The manifest of the version that a tag or a digest names.
        """
        request = versions_pb2.GetOciManifestRequest(parent=model, reference=reference)
        return await self._suite.call(f"{_VERSIONS}/GetOciManifest", request, versions_pb2.OciManifest, token)

    async def oci_blob(self, model: str, digest: str, token: str) -> versions_pb2.OciBlob:
        """
        A blob of a model's OCI artifacts.
        """
        request = versions_pb2.GetOciBlobRequest(parent=model, digest=digest)
        return await self._suite.call(f"{_VERSIONS}/GetOciBlob", request, versions_pb2.OciBlob, token)
