"""
Lists of models across namespaces.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.error_details import explain
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from services.chassis.errors import InvalidArgument
from services.doors.model.hub.repositories import Repository
from services.doors.service.doors import Doors
from services.doors.service.http import token
from services.doors.service.hub.repositories import described

_USUAL: Final = 100
_MOST: Final = 1000
# Each is a search of its own; clients follow links, also from empty pages.
_MOST_NAMESPACES: Final = 50
_ORDERS: Final = {
    "lastModified": "update_time",
    "last_modified": "update_time",
    "createdAt": "create_time",
    "created_at": "create_time",
}
_SEARCH: Final = "/modelyard.registry.v1.ModelService/SearchModels"
_NAMESPACES: Final = "/modelyard.registry.v1.NamespaceService/ListNamespaces"


class Listing:
    """
    Handlers for lists.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def models(self, request: Request) -> Response:
        """
        GET /api/models: models of one author, or of all namespaces one after the other. A page may have fewer than
        asked for, and a link to the next.
        """
        query = request.query_params
        limit = _limit(query.get("limit", ""))
        namespace, _, page_token = query.get("cursor", "").partition("|")
        author = query.get("author", "")
        bearer = token(request)
        namespaces = [author] if author else await self._namespaces(bearer)
        namespaces = [each for each in namespaces if each >= namespace]
        search = models_pb2.SearchModelsRequest(
            query=query.get("search", ""),
            filter=_filter(request),
            order_by=_order(query.get("sort", ""), query.get("direction", "-1")),
        )
        found: list[dict[str, object]] = []
        cursor = ""
        for at, each in enumerate(namespaces):
            if at == _MOST_NAMESPACES or len(found) >= limit:
                cursor = f"{each}|"
                break
            search.parent, search.page_size = f"namespaces/{each}", limit - len(found)
            search.page_token = page_token if each == namespace else ""
            page = await self._search(search, bearer, author)
            found += [described(Repository(each, model.name.rpartition("/")[2]), model) for model in page.models]
            if page.next_page_token:
                cursor = f"{each}|{page.next_page_token}"
                break
        headers = {}
        if cursor:
            again = urlencode([*((k, v) for k, v in query.multi_items() if k != "cursor"), ("cursor", cursor)])
            headers["link"] = f'<{self._doors.origin(request)}/api/models?{again}>; rel="next"'
        return JSONResponse(found, headers=headers)

    async def _search(
        self, search: models_pb2.SearchModelsRequest, bearer: str, author: str
    ) -> models_pb2.SearchModelsResponse:
        try:
            return await self._doors.suite.call(_SEARCH, search, models_pb2.SearchModelsResponse, bearer)
        except grpc.aio.AioRpcError as error:
            # An author without a model is no error, and a namespace may be deleted meanwhile.
            problem = explain(error)
            if problem.code is grpc.StatusCode.NOT_FOUND or (
                author and any(each.field == "parent" for each in problem.violations)
            ):
                return models_pb2.SearchModelsResponse()
            raise

    async def _namespaces(self, bearer: str) -> list[str]:
        request = namespaces_pb2.ListNamespacesRequest(page_size=_MOST)
        found: list[str] = []
        while True:
            page = await self._doors.suite.call(_NAMESPACES, request, namespaces_pb2.ListNamespacesResponse, bearer)
            found += [each.name.rpartition("/")[2] for each in page.namespaces]
            if not page.next_page_token:
                return sorted(found)
            request.page_token = page.next_page_token


def _limit(text: str) -> int:
    if not text:
        return _USUAL
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise InvalidArgument.of("limit", "is not a positive number")
    return min(int(text), _MOST)


def _filter(request: Request) -> str:
    query = request.query_params
    terms = [f"task = {_quoted(value)}" for value in query.getlist("pipeline_tag")]
    for value in query.getlist("filter"):
        for each in value.split(","):
            if each.startswith("license:"):
                terms.append(f"license = {_quoted(each.removeprefix('license:'))}")
            elif each:
                terms.append(f"(task = {_quoted(each)} OR framework = {_quoted(each)})")
    terms += [f"framework = {_quoted(value)}" for value in query.getlist("library")]
    return " AND ".join(terms)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _order(sort: str, direction: str) -> str:
    column = _ORDERS.get(sort)
    return "" if column is None else f"{column}{' desc' if direction == '-1' else ''}"
