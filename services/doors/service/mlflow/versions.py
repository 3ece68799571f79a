"""
Model versions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.registry.v1 import versions_pb2
from services.chassis.errors import InvalidArgument
from services.doors.model.mlflow import stages
from services.doors.model.mlflow.filters import order, versions_filter
from services.doors.model.mlflow.names import may_be_hashed, model_id
from services.doors.model.mlflow.tags import LOCATION, label_of, stored
from services.doors.service.doors import Doors
from services.doors.service.mlflow.calls import Call
from services.doors.service.mlflow.entities import model_name, model_version

ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_USUAL: Final = 10_000
_MOST: Final = 200_000
# More in one answer would take much memory; clients follow the token.
_MOST_ANSWER: Final = 10_000
_MOST_ANSWER_BYTES: Final = 16 << 20
_PAGE: Final = 1000
_ORDERS: Final = {
    "name": "model",
    "version_number": "number",
    "creation_timestamp": "create_time",
    "last_updated_timestamp": "update_time",
}
_MODEL_URI: Final = re.compile(r"models:/([^/@]+)/([0-9]{1,18})")
_OWN_PATH: Final = re.compile(rf"{re.escape(ARTIFACTS)}/models/([^/]+)/versions/([0-9]{{1,18}})/?")
_LOCAL: Final = re.compile(r"file:|[/\\]|[A-Za-z]:[/\\]", re.IGNORECASE)


class ModelVersions:
    """
    Handlers for model versions.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def create(self, request: Request) -> Response:
        """
        POST model-versions/create. A version of another version has its files; of any other source its address is kept.
        """
        call = await Call.of(self._doors, request)
        model, source = call.model(), call.text("source", required=True)
        labels, annotations = stored(call.tags())
        version = versions_pb2.Version(
            description=call.text("description"),
            source=source,
            run_link=call.text("run_link"),
            source_model_id=call.text("model_id"),
            labels=labels,
            annotations=annotations,
        )
        if run := call.text("run_id"):
            version.lineage.run = run
        origin = self._origin(request, call, source)
        if origin:
            found = await call.models.version(origin)
            version.artifacts.extend(found.artifacts)
            if not found.artifacts:
                version.annotations[LOCATION] = _location(found)
        made = await call.models.create_version(model, version)
        return JSONResponse({"model_version": model_version(made, call.name())})

    def _origin(self, request: Request, call: Call, source: str) -> str:
        if _LOCAL.match(source):
            raise InvalidArgument.of(
                "",
                f"Invalid model version source: {source[:200]!r} is on your machine, which this registry cannot read. "
                "Store it with `modelyard versions push`, log it to an artifact store that all can read, or name "
                "another version: models:/NAME/VERSION.",
            )
        match = _MODEL_URI.fullmatch(source)
        own = f"{self._doors.origin(request)}{call.prefix}"
        if match is None and source.startswith(own):
            match = _OWN_PATH.fullmatch(source, len(own))
        if match is None:
            return ""
        return f"{call.parent}/models/{model_id(match[1])}/versions/{int(match[2])}"

    async def get(self, request: Request) -> Response:
        """
        GET model-versions/get.
        """
        call = await Call.of(self._doors, request)
        version, aliases = await call.models.brief_version(call.model(), call.number())
        return JSONResponse({"model_version": model_version(version, call.name(), aliases)})

    async def update(self, request: Request) -> Response:
        """
        PATCH model-versions/update.
        """
        call = await Call.of(self._doors, request)
        version = versions_pb2.Version(name=_name(call), description=call.text("description"))
        return await self._updated(call, version, "description")

    async def transition(self, request: Request) -> Response:
        """
        POST model-versions/transition-stage.
        """
        call = await Call.of(self._doors, request)
        stage = stages.canonical(call.text("stage", required=True))
        name = _name(call)
        archive = call.flag("archive_existing_versions")
        if archive and stage not in stages.ACTIVE:
            raise InvalidArgument.of(
                "",
                f"Model version transition cannot archive existing model versions because '{stage}' is not an Active "
                f"stage. Valid stages are {', '.join(stages.ACTIVE)}",
            )
        version = versions_pb2.Version(name=name, stage=stages.stored(stage))
        answer = await self._updated(call, version, "stage")
        if archive:
            others = [
                other.name
                async for other in call.models.versions(call.model(), f'stage = "{stage}"')
                if other.name != name
            ]
            for other in others:
                archived = versions_pb2.Version(name=other, stage=stages.ARCHIVED)
                await call.models.update_version(archived, "stage")
        return answer

    async def _updated(self, call: Call, version: versions_pb2.Version, path: str) -> Response:
        await call.models.update_version(version, path)
        found, aliases = await call.models.brief_version(call.model(), call.number())
        return JSONResponse({"model_version": model_version(found, call.name(), aliases)})

    async def delete(self, request: Request) -> Response:
        """
        DELETE model-versions/delete.
        """
        call = await Call.of(self._doors, request)
        await call.models.delete_version(call.model(), _name(call))
        return JSONResponse({})

    async def search(self, request: Request) -> Response:
        """
        GET model-versions/search.
        """
        call = await Call.of(self._doors, request)
        left = min(call.whole("max_results", _USUAL, _MOST), _MOST_ANSWER)
        search = versions_pb2.SearchVersionsRequest(
            parent=call.parent,
            filter=versions_filter(call.text("filter")),
            order_by=order(call.texts("order_by"), _ORDERS),
            page_token=call.text("page_token"),
        )
        versions: list[versions_pb2.Version] = []
        size = 0
        aliases: dict[str, list[str]] = {}
        while True:
            search.page_size = min(left, _PAGE)
            page = await call.models.search_versions(search)
            versions.extend(page.versions)
            for alias in page.aliases:
                aliases.setdefault(alias.version, []).append(alias.name.rpartition("/")[2])
            left -= len(page.versions)
            size += page.ByteSize()
            search.page_token = page.next_page_token
            if left <= 0 or size > _MOST_ANSWER_BYTES or not page.next_page_token:
                break
        names = await self._names(call, versions)
        found = [
            model_version(each, names[each.name.rpartition("/versions/")[0]], aliases.get(each.name, ()))
            for each in versions
        ]
        return JSONResponse({"model_versions": found, "next_page_token": search.page_token})

    async def _names(self, call: Call, versions: Sequence[versions_pb2.Version]) -> dict[str, str]:
        models = {each.name.rpartition("/versions/")[0] for each in versions}
        hashed = sorted(each for each in models if may_be_hashed(each.rpartition("/")[2]))
        displayed = await call.models.names(call.parent, hashed) if hashed else {}
        return {each: model_name(each, displayed.get(each, "")) for each in models}

    async def download_uri(self, request: Request) -> Response:
        """
        GET model-versions/get-download-uri: the files of a version here, or where it came from.
        """
        call = await Call.of(self._doors, request)
        version = await call.models.version(_name(call))
        if version.artifacts:
            path = version.name.partition("/models/")[2]
            uri = f"{self._doors.origin(request)}{call.prefix}{ARTIFACTS}/models/{path}"
        else:
            uri = _location(version)
        return JSONResponse({"artifact_uri": uri})

    async def set_tag(self, request: Request) -> Response:
        """
        POST model-versions/set-tag.
        """
        call = await Call.of(self._doors, request)
        key, value = call.text("key", required=True), call.text("value")
        version = versions_pb2.Version(name=_name(call), labels={key: label_of(value)})
        if version.labels[key] != value:
            version.annotations[key] = value
        await call.models.update_version(version, f"labels.{key}", f"annotations.{key}")
        return JSONResponse({})

    async def delete_tag(self, request: Request) -> Response:
        """
        DELETE model-versions/delete-tag.
        """
        call = await Call.of(self._doors, request)
        key = call.text("key", required=True)
        version = versions_pb2.Version(name=_name(call))
        await call.models.update_version(version, f"labels.{key}", f"annotations.{key}")
        return JSONResponse({})


def _name(call: Call) -> str:
    return f"{call.model()}/versions/{call.number()}"


def _location(version: versions_pb2.Version) -> str:
    return version.annotations.get(LOCATION, version.source)
