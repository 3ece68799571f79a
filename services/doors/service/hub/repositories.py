"""
Repositories: their description, files and revisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.registry.v1 import models_pb2
from services.chassis.errors import InvalidArgument, NotFound
from services.doors.model.hub.repositories import Repository
from services.doors.service.doors import Doors
from services.doors.service.http import body, decoded, form_body, parameter, token
from services.doors.service.hub.snapshots import MAIN, Snapshot, Snapshots, commits_of

_PAGE: Final = 1000
_COMMITS: Final = 50
_MOST_PATHS: Final = 10_000
_MOST_BODY: Final = 8 << 20


class Repositories:
    """
    Handlers for repositories.

    Args:
        doors: what all handlers share.
        snapshots: finds versions.
    """

    def __init__(self, doors: Doors, snapshots: Snapshots) -> None:
        self._doors = doors
        self._snapshots = snapshots

    async def info(self, request: Request) -> Response:
        """
        GET /api/models/{repository}[/revision/{revision}]: the model, and the names of its files.
        """
        snapshot = await self._find(request)
        blobs = request.query_params.get("blobs", "").lower() == "true"
        return JSONResponse(
            {
                **described(self._repository(request), snapshot.model),
                "sha": snapshot.commit,
                "siblings": [file.as_sibling(blobs=blobs) for file in snapshot.tree.files],
                "usedStorage": sum(file.size for file in snapshot.tree.files),
                "spaces": [],
            }
        )

    async def tree(self, request: Request) -> Response:
        """
        GET /api/models/{repository}/tree/{revision}[/{path}]: files and folders, 1,000 a page.
        """
        snapshot = await self._find(request)
        folder = decoded(str(request.path_params.get("path", "")), "path").strip("/")
        if not snapshot.tree.is_folder(folder):
            raise _no_entry(folder, snapshot)
        recursive = request.query_params.get("recursive", "").lower() in {"true", "1"}
        after = request.query_params.get("cursor", "")
        page: list[Mapping[str, object]] = []
        for entry in snapshot.tree.entries(folder, recursive=recursive, after=after):
            if len(page) == _PAGE:
                # The next page is of the same commit, though its name may have been moved.
                return JSONResponse(page, headers={"link": self._next(request, snapshot, str(page[-1]["path"]))})
            page.append(entry)
        return JSONResponse(page)

    async def paths_info(self, request: Request) -> Response:
        """
        POST /api/models/{repository}/paths-info/{revision}: the entries of some paths; unknown ones are left out.
        """
        paths = await _paths(request)
        snapshot = await self._find(request)
        found = []
        for plain in dict.fromkeys(path.strip("/") for path in paths):
            if (file := snapshot.tree.file(plain)) is not None:
                found.append(file.as_tree_entry())
            elif plain and snapshot.tree.is_folder(plain):
                found.append(snapshot.tree.folder_entry(plain))
        return JSONResponse(found)

    async def refs(self, request: Request) -> Response:
        """
        GET /api/models/{repository}/refs: `main` and aliases as branches, versions as tags.
        """
        repository, bearer = self._repository(request), token(request)
        newest = await self._snapshots.find(repository, MAIN, bearer)
        commits = commits_of(newest.model)
        branches = [{"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": newest.commit}]
        async for alias in self._doors.registry.aliases(newest.model.name, bearer):
            name, number = alias.name.rpartition("/")[2], int(alias.version.rpartition("/")[2])
            branches.append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits.of(number)})
        tags = []
        async for version in self._doors.registry.versions(newest.model.name, bearer):
            if version.state == version.STATE_READY:
                tag = f"v{version.number}"
                tags.append({"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commits.of(version.number)})
        return JSONResponse({"branches": branches, "converts": [], "tags": tags})

    async def commits(self, request: Request) -> Response:
        """
        GET /api/models/{repository}/commits/{revision}: that version and the ones before it, newest first. How
        many there are is told where the page reaches the first.
        """
        snapshot = await self._find(request)
        newest = 0 if snapshot.version is None else snapshot.version.number
        commits, found = commits_of(snapshot.model), []
        page = _number(request.query_params.get("p", "0"), "p")
        limit = min(_number(request.query_params.get("limit", str(_COMMITS)), "limit") or _COMMITS, _PAGE)
        end = (page + 1) * limit
        headers = {}
        async for version in self._doors.registry.versions(snapshot.model.name, token(request)):
            if version.number <= newest and version.state == version.STATE_READY:
                title, _, message = version.description.partition("\n")
                found.append(
                    _commit(commits.of(version.number), title or f"Version {version.number}", message, version)
                )
                if len(found) > end:
                    break
        else:
            found.append(_commit(commits.of(0), "Model created", "", snapshot.model))
            headers["x-total-count"] = str(len(found))
        shown = found[page * limit : end]
        if end < len(found):
            query = urlencode({**request.query_params, "p": page + 1})
            headers["link"] = f'<{self._doors.origin(request)}{request.url.path}?{query}>; rel="next"'
        return JSONResponse(shown, headers=headers)

    async def check(self, request: Request) -> Response:
        """
        GET /api/models/{repository}/auth-check: whether the caller may read it.
        """
        await self._doors.registry.model(self._repository(request).name, token(request))
        return JSONResponse({})

    def _repository(self, request: Request) -> Repository:
        return repository_of(request, self._doors.namespace)

    async def _find(self, request: Request) -> Snapshot:
        revision = parameter(request, "revision") if "revision" in request.path_params else MAIN
        return await self._snapshots.find(self._repository(request), revision, token(request))

    def _next(self, request: Request, snapshot: Snapshot, cursor: str) -> str:
        repository = self._repository(request)
        folder = str(request.path_params.get("path", ""))
        path = f"/api/models/{repository}/tree/{snapshot.commit}{'/' if folder else ''}{folder}"
        query = urlencode({**request.query_params, "cursor": cursor}, quote_via=quote)
        return f'<{self._doors.origin(request)}{path}?{query}>; rel="next"'


def repository_of(request: Request, default: str) -> Repository:
    """
    The repository in a request's path.

    Args:
        default: namespace of a name without one.

    Raises:
        NotFound: no model can have this name (MODEL_NOT_FOUND).
    """
    namespace = parameter(request, "namespace") if "namespace" in request.path_params else default
    return Repository.of(namespace, parameter(request, "model"))


def described(repository: Repository, model: models_pb2.Model) -> dict[str, object]:
    """
    A model as the Hub describes it, without its files.
    """
    tags = [each for each in (model.task, model.framework) if each]
    tags += [f"license:{model.license}"] if model.license else []
    tags += [f"{key}:{value}" if value else key for key, value in sorted(model.labels.items())]
    return {
        "_id": commits_of(model).of(0)[:24],
        "id": str(repository),
        "modelId": str(repository),
        "author": repository.namespace,
        "lastModified": time_text(model.update_time),
        "createdAt": time_text(model.create_time),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        **({"pipeline_tag": model.task} if model.task else {}),
        **({"library_name": model.framework} if model.framework else {}),
        **({"cardData": {"license": model.license}} if model.license else {}),
    }


def time_text(time: Timestamp) -> str:
    """
    A time as the Hub writes it: with milliseconds, in UTC.
    """
    return f"{time.ToDatetime():%Y-%m-%dT%H:%M:%S}.{time.nanos // 10**6:03d}Z"


def _commit(commit: str, title: str, message: str, of: Any) -> dict[str, object]:
    return {"id": commit, "title": title, "message": message.strip(), "date": time_text(of.create_time), "authors": []}


def _number(text: str, field: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InvalidArgument.of(field, "is not a number")
    return int(text)


def _no_entry(path: str, snapshot: Snapshot) -> NotFound:
    return NotFound(
        "FILE_NOT_FOUND",
        path[:300],
        f"there is nothing at {path[:200]!r} in this revision",
        metadata={"commit": snapshot.commit},
    )


async def _paths(request: Request) -> list[str]:
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            found = json.loads(await body(request, _MOST_BODY))
        except (ValueError, RecursionError):
            raise InvalidArgument.of("body", "is not JSON") from None
        paths = found.get("paths") if isinstance(found, dict) else None
        if isinstance(paths, str):
            paths = [paths]
    else:
        paths = (await form_body(request, _MOST_BODY, 2 * _MOST_PATHS)).get("paths", [])
    if not isinstance(paths, list) or not all(isinstance(each, str) for each in paths):
        raise InvalidArgument.of("paths", "is not a list of paths")
    if len(paths) > _MOST_PATHS:
        raise InvalidArgument.of("paths", f"has more than {_MOST_PATHS} entries")
    return paths
