"""
The routes of an OCI registry (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#api), as far as
they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.chassis.errors import Unauthenticated
from services.doors.service.doors import Doors
from services.doors.service.http import route
from services.doors.service.oci.errors import NOBODY, render, unsupported
from services.doors.service.oci.repositories import Repositories
from services.doors.service.oci.tokens import Tokens, caller

_READ: Final = ("GET", "HEAD")
_WRITE: Final = ("POST", "PUT", "PATCH", "DELETE")
_READ_ONLY: Final = "this registry is read-only for clients of OCI registries: use `modelyard versions push`"


def oci_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of an OCI registry.
    """
    repositories, tokens = Repositories(doors), Tokens(doors)

    async def version(request: Request) -> Response:
        # Always with a token, even where reading is public: clients send none later that were not asked for one now.
        found = caller(request, doors)
        if request.scope[NOBODY]:
            raise Unauthenticated("TOKEN_MISSING", "this needs a token, as the password of a login")
        if found and doors.verifier is not None:
            await doors.verified(doors.verifier, found)
        return JSONResponse({}, headers={"docker-distribution-api-version": "registry/2.0"})

    async def catalog(_request: Request) -> Response:
        return unsupported("this registry has no list of all repositories: use `modelyard models list`", 404)

    async def nothing(_request: Request) -> Response:
        return unsupported("there is nothing at this path: see the distribution specification of OCI", 404)

    async def write(_request: Request) -> Response:
        return unsupported(_READ_ONLY)

    return [
        *(route(path, "oci.version", version, render, _READ) for path in ("/v2", "/v2/")),
        route("/v2/token", "oci.token", tokens.get, render),
        route("/v2/token", "oci.token", tokens.post, render, ("POST",)),
        route("/v2/_catalog", "oci.catalog", catalog, render, _READ),
        route("/v2/{name:path}/tags/list", "oci.tags", repositories.tags, render, _READ),
        route("/v2/{name:path}/manifests/{reference}", "oci.manifest", repositories.manifest, render, _READ),
        route("/v2/{name:path}/blobs/{digest}", "oci.blob", repositories.blob, render, _READ),
        route("/v2/{name:path}/referrers/{digest}", "oci.referrers", repositories.referrers, render, _READ),
        route("/v2/{rest:path}", "oci.nothing", nothing, render, _READ),
        route("/v2/{rest:path}", "oci.write", write, render, _WRITE),
    ]
