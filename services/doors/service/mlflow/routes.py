"""
The routes of MLflow, at the root for the default namespace and below /mlflow/{namespace} for every other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.doors.service.doors import Doors
from services.doors.service.http import Handler, route
from services.doors.service.mlflow.artifacts import Artifacts
from services.doors.service.mlflow.errors import render
from services.doors.service.mlflow.models import RegisteredModels
from services.doors.service.mlflow.versions import ARTIFACTS, ModelVersions

_PREFIXES = ("", "/mlflow/{namespace}")
_WRITES = ("PUT", "POST", "DELETE")


def mlflow_routes(doors: Doors) -> Sequence[Route]:
    """
    Every route of MLflow.
    """
    artifacts = Artifacts(doors)

    async def server_info(request: Request) -> Response:
        await doors.caller(request)
        return JSONResponse(
            {
                "store_type": "SqlStore",
                "workspaces_enabled": False,
                "multipart_uploads_enabled": False,
                "multipart_downloads_enabled": False,
                "artifacts_presigned_only": False,
            }
        )

    def each() -> Iterator[Route]:
        for prefix in _PREFIXES:
            yield route(f"{prefix}/api/3.0/mlflow/server-info", "mlflow.server-info", server_info, render)
            for path, name, handler, methods in (*_registered_models(doors), *_model_versions(doors)):
                yield route(f"{prefix}/api/2.0/mlflow/{path}", f"mlflow.{name}", handler, render, methods)
            start = f"{prefix}{ARTIFACTS}"
            yield route(start, "mlflow.artifacts", artifacts.list, render)
            yield route(f"{start}/{{path:path}}", "mlflow.artifact", artifacts.get, render)
            yield route(f"{start}/{{path:path}}", "mlflow.artifact.write", artifacts.write, render, _WRITES)
            multipart = f"{prefix}/api/2.0/mlflow-artifacts/mpu/{{path:path}}"
            yield route(multipart, "mlflow.multipart", artifacts.write, render, _WRITES)

    return list(each())


def _registered_models(doors: Doors) -> Sequence[tuple[str, str, Handler, Sequence[str]]]:
    models = RegisteredModels(doors)
    return (
        ("registered-models/create", "models.create", models.create, ("POST",)),
        ("registered-models/rename", "models.rename", models.rename, ("POST",)),
        ("registered-models/update", "models.update", models.update, ("PATCH",)),
        ("registered-models/delete", "models.delete", models.delete, ("DELETE",)),
        ("registered-models/get", "models.get", models.get, ("GET",)),
        ("registered-models/search", "models.search", models.search, ("GET",)),
        ("registered-models/get-latest-versions", "models.latest", models.latest, ("GET", "POST")),
        ("registered-models/set-tag", "models.set-tag", models.set_tag, ("POST",)),
        ("registered-models/delete-tag", "models.delete-tag", models.delete_tag, ("DELETE",)),
        ("registered-models/alias", "aliases.get", models.get_alias, ("GET",)),
        ("registered-models/alias", "aliases.set", models.set_alias, ("POST",)),
        ("registered-models/alias", "aliases.delete", models.delete_alias, ("DELETE",)),
    )


def _model_versions(doors: Doors) -> Sequence[tuple[str, str, Handler, Sequence[str]]]:
    versions = ModelVersions(doors)
    return (
        ("model-versions/create", "versions.create", versions.create, ("POST",)),
        ("model-versions/update", "versions.update", versions.update, ("PATCH",)),
        ("model-versions/transition-stage", "versions.stage", versions.transition, ("POST",)),
        ("model-versions/delete", "versions.delete", versions.delete, ("DELETE",)),
        ("model-versions/get", "versions.get", versions.get, ("GET",)),
        ("model-versions/search", "versions.search", versions.search, ("GET",)),
        ("model-versions/get-download-uri", "versions.download-uri", versions.download_uri, ("GET",)),
        ("model-versions/set-tag", "versions.set-tag", versions.set_tag, ("POST",)),
        ("model-versions/delete-tag", "versions.delete-tag", versions.delete_tag, ("DELETE",)),
    )
