"""
The routes of MLflow, at the root for the default namespace and below /mlflow/{namespace} for every other.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.doors.service.doors import Doors
from services.doors.service.http import route
from services.doors.service.mlflow.errors import render

_PREFIXES = ("", "/mlflow/{namespace}")


def mlflow_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of MLflow.
    """

    async def server_info(request: Request) -> Response:
        doors.caller(request)
        return JSONResponse(
            {
                "store_type": "SqlStore",
                "workspaces_enabled": False,
                "multipart_uploads_enabled": False,
                "multipart_downloads_enabled": False,
                "artifacts_presigned_only": False,
            }
        )

    return [
        route(f"{prefix}/api/3.0/mlflow/server-info", "mlflow.server-info", server_info, render) for prefix in _PREFIXES
    ]
