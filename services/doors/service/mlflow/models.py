"""
Registered models and their aliases.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.registry.v1 import models_pb2
from services.chassis.errors import Unimplemented
from services.doors.model.mlflow import stages
from services.doors.model.mlflow.filters import models_filter, order
from services.doors.model.mlflow.names import model_id
from services.doors.model.mlflow.tags import label_of, stored
from services.doors.service.doors import Doors
from services.doors.service.mlflow.calls import Call
from services.doors.service.mlflow.entities import model_version, registered_model

_USUAL: Final = 100
_MOST: Final = 1000
_ORDERS: Final = {
    "name": "name",
    "creation_timestamp": "create_time",
    "last_updated_timestamp": "update_time",
}


class RegisteredModels:
    """
    Handlers for registered models.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def create(self, request: Request) -> Response:
        """
        POST registered-models/create.
        """
        call = await Call.of(self._doors, request)
        name = call.name()
        labels, annotations = stored(call.tags())
        model = models_pb2.Model(description=call.text("description"), labels=labels, annotations=annotations)
        if (found := model_id(name)) != name:
            model.display_name = name
        made = await call.models.create(call.parent, found, model)
        return JSONResponse({"registered_model": registered_model(made)})

    async def get(self, request: Request) -> Response:
        """
        GET registered-models/get.
        """
        call = await Call.of(self._doors, request)
        return JSONResponse({"registered_model": registered_model(await call.models.get(call.model()))})

    async def update(self, request: Request) -> Response:
        """
        PATCH registered-models/update.
        """
        call = await Call.of(self._doors, request)
        model = models_pb2.Model(name=call.model(), description=call.text("description"))
        return JSONResponse({"registered_model": registered_model(await call.models.update(model, "description"))})

    async def rename(self, request: Request) -> Response:
        """
        POST registered-models/rename: a model keeps its name here.
        """
        call = await Call.of(self._doors, request)
        await call.models.get(call.model())
        raise Unimplemented(
            "NOT_IMPLEMENTED", "models cannot be renamed in this registry: create another, and copy its versions"
        )

    async def delete(self, request: Request) -> Response:
        """
        DELETE registered-models/delete.
        """
        call = await Call.of(self._doors, request)
        await call.models.delete(call.model())
        return JSONResponse({})

    async def search(self, request: Request) -> Response:
        """
        GET registered-models/search.
        """
        call = await Call.of(self._doors, request)
        search = models_pb2.SearchModelsRequest(
            parent=call.parent,
            filter=models_filter(call.text("filter")),
            order_by=order(call.texts("order_by"), _ORDERS) or "name",
            page_size=call.whole("max_results", _USUAL, _MOST),
            page_token=call.text("page_token"),
        )
        page = await call.models.search(search)
        models = [registered_model(model) for model in page.models]
        return JSONResponse({"registered_models": models, "next_page_token": page.next_page_token})

    async def latest(self, request: Request) -> Response:
        """
        POST, and in old clients GET, registered-models/get-latest-versions.
        """
        call = await Call.of(self._doors, request)
        wanted = {stages.canonical(each) for each in call.texts("stages")}
        found = registered_model(await call.models.get(call.model()))
        versions = [each for each in found["latest_versions"] if not wanted or each["current_stage"] in wanted]
        return JSONResponse({"model_versions": versions})

    async def set_tag(self, request: Request) -> Response:
        """
        POST registered-models/set-tag.
        """
        call = await Call.of(self._doors, request)
        key, value = call.text("key", required=True), call.text("value")
        model = models_pb2.Model(name=call.model(), labels={key: label_of(value)})
        if model.labels[key] != value:
            model.annotations[key] = value
        await call.models.update(model, f"labels.{key}", f"annotations.{key}")
        return JSONResponse({})

    async def delete_tag(self, request: Request) -> Response:
        """
        DELETE registered-models/delete-tag.
        """
        call = await Call.of(self._doors, request)
        key = call.text("key", required=True)
        await call.models.update(models_pb2.Model(name=call.model()), f"labels.{key}", f"annotations.{key}")
        return JSONResponse({})

    async def get_alias(self, request: Request) -> Response:
        """
        GET registered-models/alias: the version that an alias points at.
        """
        call = await Call.of(self._doors, request)
        model = call.model()
        alias = await call.models.alias(f"{model}/aliases/{call.alias()}")
        version, aliases = await call.models.brief_version(model, int(alias.version.rpartition("/")[2]))
        return JSONResponse({"model_version": model_version(version, call.name(), aliases)})

    async def set_alias(self, request: Request) -> Response:
        """
        POST registered-models/alias.
        """
        call = await Call.of(self._doors, request)
        model = call.model()
        await call.models.move(model, {call.alias(): f"{model}/versions/{call.number()}"})
        return JSONResponse({})

    async def delete_alias(self, request: Request) -> Response:
        """
        DELETE registered-models/alias.
        """
        call = await Call.of(self._doors, request)
        await call.models.move(call.model(), {call.alias(): ""})
        return JSONResponse({})
