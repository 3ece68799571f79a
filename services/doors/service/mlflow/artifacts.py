"""
The files of versions, as MLflow's artifacts: lists, and redirects to the bytes at the gateway's /assets/.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import versions_pb2
from services.chassis.errors import NotFound, Unimplemented
from services.doors.model.files import File, Tree
from services.doors.model.mlflow.names import model_id
from services.doors.service.doors import Doors
from services.doors.service.http import decoded, token, with_password
from services.doors.service.mlflow.calls import parent_of
from services.doors.store.models import Models

_DOWNLOAD: Final = "/modelyard.cdn.v1.AssetService/Download"
_PATH: Final = re.compile(r"models/([^/]+)/versions/([0-9]{1,18})(?:/(.*))?", re.DOTALL)


class Artifacts:
    """
    Handlers for artifacts.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def list(self, request: Request) -> Response:
        """
        GET mlflow-artifacts/artifacts?path=: the files and folders in a folder.
        """
        version, folder = await self._find(request, request.query_params.get("path", ""))
        entries = []
        start = f"{folder}/" if folder else ""
        for entry in version.entries(folder, recursive=False):
            found: dict[str, object] = {"path": str(entry["path"])[len(start) :], "is_dir": entry["type"] != "file"}
            if entry["type"] == "file":
                # Clients cannot read a size that is null.
                found["file_size"] = entry["size"]
            entries.append(found)
        return JSONResponse({"files": entries})

    async def get(self, request: Request) -> Response:
        """
        GET mlflow-artifacts/artifacts/{path}: where the bytes are.
        """
        path = decoded(str(request.path_params["path"]), "path")
        version, rest = await self._find(request, path)
        file = version.file(rest)
        if file is None:
            raise NotFound("FILE_NOT_FOUND", path[:300], f"there is no artifact {path[:300]!r}")
        if self._doors.verifier is not None and with_password(request):
            return await self._streamed(file, token(request))
        return Response(status_code=307, headers={"location": self._doors.asset(request, file.sha256)})

    async def _streamed(self, file: File, bearer: str) -> Response:
        """
        The bytes themselves, for who sends the token as a password, which the gateway does not read at /assets/.
        """
        asked = assets_pb2.DownloadRequest(name=f"assets/{file.sha256}")
        messages = self._doors.suite.stream(_DOWNLOAD, asked, assets_pb2.DownloadResponse, bearer)
        # An error comes with the first message, before the status is sent.
        first = await anext(messages, None)

        async def content() -> AsyncIterator[bytes]:
            async with aclosing(messages):
                if first is not None:
                    yield first.chunk.data
                async for message in messages:
                    yield message.chunk.data

        headers = {"content-length": str(file.size)}
        return StreamingResponse(content(), headers=headers, media_type=file.media_type or "application/octet-stream")

    async def write(self, request: Request) -> Response:
        """
        Everything that writes artifacts.

        Raises:
            Unimplemented: always.
        """
        await self._doors.caller(request)
        raise Unimplemented(
            "NOT_IMPLEMENTED",
            "this registry does not take artifacts from clients of MLflow: store models with `modelyard versions "
            "push`, or log them to an artifact store of your tracking server",
        )

    async def _find(self, request: Request, path: str) -> tuple[Tree, str]:
        parent, _ = parent_of(self._doors, request)
        match = _PATH.fullmatch(path.strip("/"))
        if match is None:
            raise NotFound(
                "FILE_NOT_FOUND",
                path[:300],
                f"there is no artifact {path[:300]!r}: paths are models/NAME/versions/NUMBER/…",
            )
        name = f"{parent}/models/{model_id(match[1])}/versions/{int(match[2])}"
        bearer = token(request)
        found = await self._doors.recent.get(
            bearer, ("mlflow", name), lambda: self._tree(name, bearer), lambda tree: len(tree.files)
        )
        return found, (match[3] or "").rstrip("/")

    async def _tree(self, name: str, bearer: str) -> Tree:
        version = await Models(self._doors.suite, bearer).version(name)
        if version.state != versions_pb2.Version.STATE_READY:
            raise NotFound("FILE_NOT_FOUND", name, f"{name} is not READY")
        return Tree.of(File(each.path, each.sha256, each.size_bytes, each.media_type) for each in version.artifacts)
