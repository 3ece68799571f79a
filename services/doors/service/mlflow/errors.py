"""
Errors as clients of MLflow read them: `{"error_code", "message"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.error_details import Problem, Violation
from services.doors.service.http import SEARCH_TOO_SLOW, TOO_SLOW, status_of

#: In a request's scope: the name, version and alias that it names, for the words of errors.
NAMES: Final = "modelyard.mlflow.names"
#: MLflow's code and status by status of gRPC. Its clients retry 429 and 5xx.
_CODES: Final = {
    grpc.StatusCode.NOT_FOUND: ("RESOURCE_DOES_NOT_EXIST", 404),
    grpc.StatusCode.ALREADY_EXISTS: ("RESOURCE_ALREADY_EXISTS", 400),
    grpc.StatusCode.INVALID_ARGUMENT: ("INVALID_PARAMETER_VALUE", 400),
    grpc.StatusCode.FAILED_PRECONDITION: ("INVALID_PARAMETER_VALUE", 400),
    grpc.StatusCode.OUT_OF_RANGE: ("INVALID_PARAMETER_VALUE", 400),
    grpc.StatusCode.UNAUTHENTICATED: ("UNAUTHENTICATED", 401),
    grpc.StatusCode.PERMISSION_DENIED: ("PERMISSION_DENIED", 403),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("RESOURCE_EXHAUSTED", 400),
    grpc.StatusCode.ABORTED: ("TEMPORARILY_UNAVAILABLE", 503),
    grpc.StatusCode.UNAVAILABLE: ("TEMPORARILY_UNAVAILABLE", 503),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("TEMPORARILY_UNAVAILABLE", 503),
    grpc.StatusCode.UNIMPLEMENTED: ("NOT_IMPLEMENTED", 501),
}


#: MLflow's words by the registry's reason: programs compare them.
_WORDS: Final = {
    "MODEL_NOT_FOUND": "Registered Model with name={name} not found",
    "MODEL_EXISTS": "Registered Model (name={name}) already exists.",
    "VERSION_NOT_FOUND": "Model Version (name={name}, version={version}) not found",
    "VERSION_DELETED": "Model Version (name={name}, version={version}) not found",
    "ALIAS_NOT_FOUND": "Registered model alias {alias} not found.",
}


def render(request: Request, problem: Problem) -> Response:
    """
    An error of MLflow.
    """
    code, status = _CODES.get(problem.code, ("INTERNAL_ERROR", 500))
    if problem.reason == "ALIAS_NOT_FOUND":
        code, status = "INVALID_PARAMETER_VALUE", 400
    if problem.reason == SEARCH_TOO_SLOW:
        code, status = "INVALID_PARAMETER_VALUE", 400
    if problem.code is grpc.StatusCode.RESOURCE_EXHAUSTED and problem.retry_after is not None:
        # Something is busy; a quota, which says no time, stays used up.
        code, status = "REQUEST_LIMIT_EXCEEDED", 429
    if status_of(problem) in {408, 413}:
        status = status_of(problem)
    if problem.reason == TOO_SLOW:
        status = 504
    message = _words(request, problem) or "; ".join(_violation(each) for each in problem.violations) or problem.message
    headers = {} if problem.retry_after is None else {"retry-after": f"{max(1, round(problem.retry_after))}"}
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="modelyard"'
    return JSONResponse({"error_code": code, "message": message}, status, headers)


def _words(request: Request, problem: Problem) -> str:
    names: Mapping[str, str] = request.scope.get(NAMES, {})
    try:
        return _WORDS.get(problem.reason, "").format_map(names)
    except KeyError:
        # The request does not name it, but something else does.
        return ""


def _violation(violation: Violation) -> str:
    return f"{violation.field}: {violation.description}" if violation.field else violation.description


def no_endpoint(path: str) -> Response:
    """
    The error for what MLflow has and a model registry does not: experiments, runs, traces.
    """
    message = (
        f"{path[:200]} is not served here: this is a model registry. Set MLFLOW_REGISTRY_URI to it, and "
        "MLFLOW_TRACKING_URI to a tracking server"
    )
    return JSONResponse({"error_code": "ENDPOINT_NOT_FOUND", "message": message}, 404)
