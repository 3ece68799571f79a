"""
The routes of the Hub (https://huggingface.co/docs/hub/api), as far as they read.

The last part of a name may be the whole name: `resnet50` is the model of that name in the default namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.chassis.errors import Unimplemented
from services.doors.service.doors import Doors
from services.doors.service.http import Handler, route
from services.doors.service.hub.errors import render
from services.doors.service.hub.files import Files
from services.doors.service.hub.listing import Listing
from services.doors.service.hub.repositories import Repositories
from services.doors.service.hub.snapshots import Snapshots

_API: Final = ("/api/models/{namespace}/{model}", "/api/models/{model}")
_ROOT: Final = ("/{namespace}/{model}", "/{model}")
_WRITES: Final = (
    ("/api/repos/{rest:path}", "hub.repositories.write"),
    ("/api/validate-yaml", "hub.validate-yaml"),
    *(
        (f"{prefix}/{rest}", "hub.write")
        for prefix in _API
        for rest in (
            "commit/{revision}",
            "preupload/{revision}",
            "settings",
            "tag/{revision}",
            "branch/{revision}",
            "super-squash/{revision}",
            "xet-write-token/{revision}",
            "lfs-files/batch",
        )
    ),
    *((f"{prefix}.git/info/lfs/{{rest:path}}", "hub.lfs") for prefix in _ROOT),
    ("/xet/{rest:path}", "hub.xet"),
)


def hub_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of the Hub.
    """
    snapshots = Snapshots(doors.registry, doors.recent)
    repositories, files, listing = Repositories(doors, snapshots), Files(doors, snapshots), Listing(doors)

    async def whoami(request: Request) -> Response:
        caller = await doors.identified(request)
        name = doors.namespace if caller is None else caller.subject
        write = caller is None or "registry.write" in caller.scopes
        return JSONResponse(
            {
                "type": "user",
                "id": name,
                "name": name,
                "fullname": name,
                "email": None,
                "isPro": False,
                "orgs": [],
                "auth": {
                    "type": "access_token",
                    "accessToken": {"displayName": name, "role": "write" if write else "read"},
                },
            }
        )

    def each() -> Iterator[Route]:
        yield route("/api/whoami-v2", "hub.whoami", whoami, render)
        yield route("/api/models", "hub.models", listing.models, render)
        for path, name in _WRITES:
            yield route(path, name, _not_yet, render, ("POST", "PUT", "DELETE", "PATCH"))
        for suffix, name, handler, methods in _reads(repositories):
            # The longer form first: of `a/b/refs` the model is b.
            for prefix in _API:
                yield route(f"{prefix}{suffix}", name, handler, render, methods)
        for prefix in _ROOT:
            for kind in ("resolve", "raw"):
                path = f"{prefix}/{kind}/{{revision}}/{{path:path}}"
                yield route(path, "hub.file", files.get, render)
                yield route(path, "hub.file", files.head, render, ("HEAD",))

    return list(each())


def _reads(repositories: Repositories) -> Sequence[tuple[str, str, Handler, Sequence[str]]]:
    return (
        ("/revision/{revision}", "hub.model", repositories.info, ("GET",)),
        ("/tree/{revision}", "hub.tree", repositories.tree, ("GET",)),
        ("/tree/{revision}/{path:path}", "hub.tree", repositories.tree, ("GET",)),
        ("/paths-info/{revision}", "hub.paths-info", repositories.paths_info, ("POST",)),
        ("/refs", "hub.refs", repositories.refs, ("GET",)),
        ("/commits/{revision}", "hub.commits", repositories.commits, ("GET",)),
        ("/auth-check", "hub.auth-check", repositories.check, ("GET",)),
        ("", "hub.model", repositories.info, ("GET",)),
    )


async def _not_yet(_request: Request) -> Response:
    raise Unimplemented(
        "NOT_IMPLEMENTED", "this registry cannot be written to by clients of the Hub yet: use `modelyard versions push`"
    )
