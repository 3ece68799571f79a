"""
Repositories of OCI artifacts: tags, manifests and blobs of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import InvalidArgument, NotFound
from services.doors.model.oci.names import Name, check_digest, is_sha256
from services.doors.service.doors import Doors
from services.doors.service.http import decoded, parameter
from services.doors.service.oci.tokens import caller

_DIGEST: Final = "docker-content-digest"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_BYTES: Final = "application/octet-stream"
_MOST_TAGS: Final = 10_000
_ALL: Final = frozenset({"*/*", "application/*"})


class Repositories:
    """
    Handlers for repositories.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def tags(self, request: Request) -> Response:
        """
        GET /v2/{name}/tags/list: aliases, versions and latest, in the order of their bytes.
        """
        name, token = self._asked(request)
        after = request.query_params.get("last", "")
        if len(after) > 255:
            raise InvalidArgument.of("last", "is longer than 255 characters")
        limit = _limit(request.query_params.get("n"))
        if limit == 0:
            await self._doors.registry.model(name.resource, token)
            return JSONResponse({"name": name.text, "tags": []})
        found = await self._doors.registry.oci_tags(name.resource, after, limit, token)
        tags, headers = list(found.tags), {}
        if found.more:
            query = urlencode({"n": limit, "last": tags[-1]})
            headers["link"] = f'<{request.url.path}?{query}>; rel="next"'
        return JSONResponse({"name": name.text, "tags": tags}, headers=headers)

    async def manifest(self, request: Request) -> Response:
        """
        GET and HEAD /v2/{name}/manifests/{reference}: the manifest of a tag, or the one with a digest.
        """
        name, token = self._asked(request)
        reference = parameter(request, "reference")
        if ":" in reference:
            check_digest(reference)
            if not is_sha256(reference):
                raise NotFound("VERSION_NOT_FOUND", name.resource, f"{name.text} has no manifest {reference}")
        found = await self._doors.registry.oci_manifest(name.resource, reference, token)
        if not _accepts(request, found.media_type):
            raise NotFound(
                "VERSION_NOT_FOUND",
                found.version,
                f"{name.text}:{reference} is an OCI manifest: accept {found.media_type}",
            )
        headers = {_DIGEST: found.digest, "etag": f'"{found.digest}"'}
        return _content(request, found.content, found.media_type, headers)

    async def blob(self, request: Request) -> Response:
        """
        GET and HEAD /v2/{name}/blobs/{digest}: where the bytes of a file are, or a configuration.
        """
        name, token = self._asked(request)
        digest = parameter(request, "digest")
        check_digest(digest)
        if not is_sha256(digest):
            raise NotFound("BLOB_UNKNOWN", name.resource, f"{name.text} has no blob {digest}: its blobs are sha256:…")
        found = await self._doors.registry.oci_blob(name.resource, digest, token)
        headers = {_DIGEST: digest, "etag": f'"{digest}"'}
        if found.content:
            return _content(request, found.content, _BYTES, headers)
        if request.method == "HEAD":
            response = Response(media_type=_BYTES, headers={**headers, "accept-ranges": "bytes"})
            response.headers["content-length"] = str(found.size_bytes)
            return response
        location = self._doors.asset(request, digest.removeprefix("sha256:"))
        return Response(status_code=307, headers={**headers, "location": location})

    async def referrers(self, request: Request) -> Response:
        """
        GET /v2/{name}/referrers/{digest}: nothing refers to a manifest here.
        """
        name, token = self._asked(request)
        check_digest(parameter(request, "digest"))
        await self._doors.registry.model(name.resource, token)
        headers = {"oci-filters-applied": "artifactType"} if request.query_params.get("artifactType") else {}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": []}
        return JSONResponse(index, media_type=_INDEX, headers=headers)

    def _asked(self, request: Request) -> tuple[Name, str]:
        """
        The repository, and the caller's token.
        """
        # For what is no name there is a challenge, too.
        caller(request, self._doors)
        parts = [decoded(part, "name") for part in str(request.path_params["name"]).split("/")]
        if any("/" in part for part in parts):
            raise InvalidArgument.of("name", "is not namespace/model")
        name = Name.of("/".join(parts), self._doors.namespace)
        return name, caller(request, self._doors, name)


def _content(request: Request, content: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    response = Response(content if request.method == "GET" else b"", headers=headers)
    # Without the parameter that Starlette adds to text.
    response.headers["content-type"] = media_type
    response.headers["content-length"] = str(len(content))
    return response


def _limit(text: str | None) -> int:
    if text is None:
        return _MOST_TAGS
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidArgument.of("n", "is not a number")
    return min(int(text), _MOST_TAGS)


def _accepts(request: Request, media_type: str) -> bool:
    lines = request.headers.getlist("accept")
    accepted = {each.partition(";")[0].strip().lower() for line in lines for each in line.split(",")}
    return not lines or bool(accepted & {media_type, *_ALL})
