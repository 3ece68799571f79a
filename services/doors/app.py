"""
The application: the routes of all protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard.error_details import Problem
from services.chassis.serving.http_calls import AsgiApp, Receive, Scope, Send
from services.doors.service.doors import Doors
from services.doors.service.hub import errors as hub_errors
from services.doors.service.hub.routes import hub_routes
from services.doors.service.mlflow import errors as mlflow_errors
from services.doors.service.mlflow.routes import mlflow_routes
from services.doors.service.oci import errors as oci_errors
from services.doors.service.oci.routes import oci_routes


def application(doors: Doors) -> AsgiApp:
    """
    The application that serves the routes of all protocols.

    Args:
        doors: what they share.
    """
    # The Hub's routes come last: below its root are names of repositories.
    routes: Sequence[Route] = (*mlflow_routes(doors), *oci_routes(doors), *hub_routes(doors))
    app = Starlette(routes=list(routes), exception_handlers={404: _no_route, 405: _no_route})
    app.router.redirect_slashes = False
    return _RawPath(app)


def _no_route(request: Request, error: Exception) -> Response:
    """
    No route, or not for this method: in the form of the protocol that the path belongs to.
    """
    path = request.url.path
    allowed = getattr(error, "headers", None) or {}
    status = 405 if allowed else 404
    problem = Problem(grpc.StatusCode.NOT_FOUND, f"{request.method} {path[:200]} is not served here")
    response: Response
    if path == "/v2" or path.startswith("/v2/"):
        response = oci_errors.render(request, problem)
    elif "/mlflow" in path:
        response = mlflow_errors.no_endpoint(path)
    else:
        response = hub_errors.render(request, problem)
    response.status_code = status
    response.headers.update(allowed)
    return response


class _RawPath:
    """
    Routes see the path as it was sent: `refs%2Fpr%2F1` is one segment.

    Args:
        app: that has the routes.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or b"/"
        scope["path"] = raw.partition(b"?")[0].decode("latin-1")
        await self._app(scope, receive, send)
