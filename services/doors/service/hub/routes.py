"""
The routes of the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.doors.service.doors import Doors
from services.doors.service.http import route
from services.doors.service.hub.errors import render


def hub_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of the Hub.
    """

    async def whoami(request: Request) -> Response:
        caller = doors.known_caller(request)
        name = doors.namespace if caller is None else caller.subject
        return JSONResponse(
            {
                "type": "user",
                "id": name,
                "name": name,
                "fullname": name,
                "email": None,
                "isPro": False,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": {"displayName": name, "role": "write"}},
            }
        )

    return (route("/api/whoami-v2", "hub.whoami", whoami, render),)
