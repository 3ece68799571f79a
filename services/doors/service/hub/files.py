"""
The bytes of files: the client is sent to the gateway's /assets/, which serves them from S3.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from services.chassis.errors import NotFound
from services.doors.model.files import File
from services.doors.service.doors import Doors
from services.doors.service.http import decoded, parameter, token
from services.doors.service.hub.repositories import repository_of
from services.doors.service.hub.snapshots import Snapshot, Snapshots


class Files:
    """
    Handlers for files.

    Args:
        doors: what all handlers share.
        snapshots: finds versions.
    """

    def __init__(self, doors: Doors, snapshots: Snapshots) -> None:
        self._doors = doors
        self._snapshots = snapshots

    async def head(self, request: Request) -> Response:
        """
        HEAD …/resolve/{revision}/{path}: size and digest of a file. No redirect: a client that follows one wants the
        commit id in the last response, which S3 does not know.
        """
        snapshot, file = await self._find(request)
        # No content, but the length that it has.
        response = Response(media_type=file.media_type or None)
        response.headers.update(_headers(snapshot, file))
        response.headers["content-length"] = str(file.size)
        response.headers["accept-ranges"] = "bytes"
        return response

    async def get(self, request: Request) -> Response:
        """
        GET …/resolve/{revision}/{path}: where the bytes are.
        """
        snapshot, file = await self._find(request)
        location = self._doors.asset(request, file.sha256)
        return Response(status_code=302, headers={**_headers(snapshot, file), "location": location})

    async def _find(self, request: Request) -> tuple[Snapshot, File]:
        repository = repository_of(request, self._doors.namespace)
        path = decoded(str(request.path_params["path"]), "path")
        snapshot = await self._snapshots.find(repository, parameter(request, "revision"), token(request))
        file = snapshot.tree.file(path)
        if file is None:
            raise NotFound(
                "FILE_NOT_FOUND",
                path[:300],
                f"{repository} has no file {path[:200]!r} in this revision",
                metadata={"commit": snapshot.commit},
            )
        return snapshot, file


def _headers(snapshot: Snapshot, file: File) -> dict[str, str]:
    return {
        "etag": f'"{file.sha256}"',
        "x-linked-etag": f'"{file.sha256}"',
        "x-linked-size": str(file.size),
        "x-repo-commit": snapshot.commit,
        # The name of a revision may be moved.
        "cache-control": "no-cache",
    }
