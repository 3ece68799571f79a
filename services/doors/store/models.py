"""
Models, versions and aliases as MLflow's handlers read and write them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.error_details import explain
from modelyard.registry.v1 import aliases_pb2, models_pb2, versions_pb2
from services.chassis.errors import NotFound
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite

_MODELS: Final = "/modelyard.registry.v1.ModelService"
_VERSIONS: Final = "/modelyard.registry.v1.VersionService"
_ALIASES: Final = "/modelyard.registry.v1.AliasService"
_PAGE: Final = 1000


class Models:
    """
    The registry for one call. Every method raises grpc.aio.AioRpcError as the registry answered.

    Args:
        suite: where it is.
        token: the caller's; empty for none.
    """

    def __init__(self, suite: Suite, token: str) -> None:
        self._suite = suite
        self._token = token

    async def get(self, name: str) -> models_pb2.Model:
        """
        A model with its aliases and its newest versions.

        Raises:
            NotFound: it is deleted (MODEL_NOT_FOUND).
        """
        request = models_pb2.GetModelRequest(name=name, view=models_pb2.MODEL_VIEW_FULL)
        model = await self._suite.call(f"{_MODELS}/GetModel", request, models_pb2.Model, self._token)
        if model.HasField("delete_time"):
            raise NotFound("MODEL_NOT_FOUND", name)
        return model

    async def names(self, parent: str, names: Sequence[str]) -> dict[str, str]:
        """
        The display names of models, by their names; those that do not exist are left out.
        """
        found: dict[str, str] = {}
        for start in range(0, len(names), _PAGE):
            request = models_pb2.BatchGetModelsRequest(parent=parent, names=names[start : start + _PAGE])
            try:
                page = await self._suite.call(
                    f"{_MODELS}/BatchGetModels", request, models_pb2.BatchGetModelsResponse, self._token
                )
            except grpc.aio.AioRpcError as error:
                # One of them was deleted meanwhile.
                if explain(error).reason != "MODEL_NOT_FOUND":
                    raise
                continue
            found |= {model.name: model.display_name for model in page.models}
        return found

    async def create(self, parent: str, model_id: str, model: models_pb2.Model) -> models_pb2.Model:
        """
        Create a model. One that was deleted under the same id makes room: for MLflow it is gone.
        """
        request = models_pb2.CreateModelRequest(parent=parent, model_id=model_id, model=model)
        try:
            return await self._create(request)
        except grpc.aio.AioRpcError as error:
            if explain(error).reason != "MODEL_EXISTS":
                raise
            before = models_pb2.GetModelRequest(name=f"{parent}/models/{model_id}")
            found = await self._suite.call(f"{_MODELS}/GetModel", before, models_pb2.Model, self._token, fresh=True)
            if not found.HasField("delete_time"):
                raise
        # Only now, since it needs the permission to delete, too.
        request.replace_deleted = True
        return await self._create(request)

    async def _create(self, request: models_pb2.CreateModelRequest) -> models_pb2.Model:
        return await self._suite.call(f"{_MODELS}/CreateModel", request, models_pb2.Model, self._token)

    async def update(self, model: models_pb2.Model, *paths: str) -> models_pb2.Model:
        """
        Change fields of a model.
        """
        request = models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=paths))
        return await self._suite.call(f"{_MODELS}/UpdateModel", request, models_pb2.Model, self._token)

    async def delete(self, name: str) -> None:
        """
        Delete a model.
        """
        request = models_pb2.DeleteModelRequest(name=name)
        await self._suite.call(f"{_MODELS}/DeleteModel", request, models_pb2.Model, self._token)

    async def search(self, request: models_pb2.SearchModelsRequest) -> models_pb2.SearchModelsResponse:
        """
        A page of models with their aliases and their newest versions.
        """
        request.view = models_pb2.MODEL_VIEW_FULL
        return await self._suite.call(f"{_MODELS}/SearchModels", request, models_pb2.SearchModelsResponse, self._token)

    async def version(self, name: str) -> versions_pb2.Version:
        """
        A version with its artifacts.

        Raises:
            NotFound: its model is deleted (MODEL_NOT_FOUND).
        """
        await Registry(self._suite).model(name.partition("/versions/")[0], self._token)
        request = versions_pb2.GetVersionRequest(name=name)
        return await self._suite.call(f"{_VERSIONS}/GetVersion", request, versions_pb2.Version, self._token)

    async def brief_version(self, model: str, number: int) -> tuple[versions_pb2.Version, list[str]]:
        """
        A version without its artifacts, and the ids of the aliases that point at it.

        Raises:
            NotFound: there is no such version (VERSION_NOT_FOUND).
        """
        request = versions_pb2.SearchVersionsRequest(parent=model, filter=f"number = {number}", page_size=1)
        page = await self.search_versions(request)
        if not page.versions:
            raise NotFound("VERSION_NOT_FOUND", f"{model}/versions/{number}")
        return page.versions[0], [each.name.rpartition("/")[2] for each in page.aliases]

    async def search_versions(self, request: versions_pb2.SearchVersionsRequest) -> versions_pb2.SearchVersionsResponse:
        """
        A page of versions without their artifacts, and the aliases that point at them.
        """
        return await self._suite.call(
            f"{_VERSIONS}/SearchVersions", request, versions_pb2.SearchVersionsResponse, self._token
        )

    async def versions(self, model: str, condition: str) -> AsyncIterator[versions_pb2.Version]:
        """
        Every version of a model for which a filter holds.
        """
        request = versions_pb2.SearchVersionsRequest(parent=model, filter=condition, page_size=_PAGE)
        while True:
            page = await self.search_versions(request)
            for version in page.versions:
                yield version
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def create_version(self, model: str, version: versions_pb2.Version) -> versions_pb2.Version:
        """
        Create a version whose artifacts are stored already, and finalize it. Where that fails, the version is FAILED.
        """
        request = versions_pb2.CreateVersionRequest(parent=model, version=version)
        made = await self._suite.call(f"{_VERSIONS}/CreateVersion", request, versions_pb2.Version, self._token)
        finalize = versions_pb2.FinalizeVersionRequest(name=made.name)
        try:
            return await self._suite.call(f"{_VERSIONS}/FinalizeVersion", finalize, versions_pb2.Version, self._token)
        except grpc.aio.AioRpcError as error:
            fail = versions_pb2.FailVersionRequest(name=made.name, failure=explain(error).message[:1000])
            # Where this fails, too, it stays PENDING; why finalizing it failed is the error that counts.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._suite.call(f"{_VERSIONS}/FailVersion", fail, versions_pb2.Version, self._token)
            raise

    async def update_version(self, version: versions_pb2.Version, *paths: str) -> versions_pb2.Version:
        """
        Change fields of a version.
        """
        request = versions_pb2.UpdateVersionRequest(version=version, update_mask=FieldMask(paths=paths))
        return await self._suite.call(f"{_VERSIONS}/UpdateVersion", request, versions_pb2.Version, self._token)

    async def delete_version(self, model: str, name: str) -> None:
        """
        Delete a version with the aliases that point at it; not one that a live deployment runs.
        """
        request = versions_pb2.DeleteVersionRequest(name=name)
        try:
            await self._suite.call(f"{_VERSIONS}/DeleteVersion", request, versions_pb2.Version, self._token)
            return
        except grpc.aio.AioRpcError as error:
            if explain(error).reason != "VERSION_ALIASED":
                raise
        # Without `force`, which would not mind deployments either.
        pointing = aliases_pb2.ListAliasesRequest(parent=model, version=name, page_size=_PAGE)
        page = await self._suite.call(
            f"{_ALIASES}/ListAliases", pointing, aliases_pb2.ListAliasesResponse, self._token, fresh=True
        )
        ids = [each.name.rpartition("/")[2] for each in page.aliases]
        for start in range(0, len(ids), 100):
            await self.move(model, dict.fromkeys(ids[start : start + 100], ""))
        await self._suite.call(f"{_VERSIONS}/DeleteVersion", request, versions_pb2.Version, self._token)

    async def alias(self, name: str) -> aliases_pb2.Alias:
        """
        An alias.
        """
        request = aliases_pb2.GetAliasRequest(name=name)
        return await self._suite.call(f"{_ALIASES}/GetAlias", request, aliases_pb2.Alias, self._token)

    async def move(self, model: str, moves: Mapping[str, str]) -> None:
        """
        Point aliases at versions.

        Args:
            model: their model.
            moves: names of versions by ids of aliases; empty removes the alias.
        """
        each = [aliases_pb2.MoveAliasesRequest.Move(alias_id=key, version=version) for key, version in moves.items()]
        request = aliases_pb2.MoveAliasesRequest(parent=model, moves=each)
        await self._suite.call(f"{_ALIASES}/MoveAliases", request, aliases_pb2.MoveAliasesResponse, self._token)
