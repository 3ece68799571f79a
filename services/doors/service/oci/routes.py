"""
The routes of an OCI registry (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#api).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.doors.service.doors import Doors
from services.doors.service.http import route
from services.doors.service.oci.errors import render


def oci_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of an OCI registry.
    """

    async def version(request: Request) -> Response:
        request.scope["modelyard.challenge"] = f'Bearer realm="{doors.origin(request)}/v2/token",service="modelyard"'
        doors.known_caller(request)
        return JSONResponse({}, headers={"docker-distribution-api-version": "registry/2.0"})

    return [route(path, "oci.version", version, render, ("GET", "HEAD")) for path in ("/v2", "/v2/")]
