"""
Errors as clients of OCI registries read them
(https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes).
"""

from __future__ import annotations

from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.error_details import Problem
from services.doors.service.http import status_of

#: Error codes of the specification by reasons of the registry.
_REASONS: Final = {
    "NAMESPACE_NOT_FOUND": "NAME_UNKNOWN",
    "MODEL_NOT_FOUND": "NAME_UNKNOWN",
    "MODEL_DELETED": "NAME_UNKNOWN",
    "VERSION_NOT_FOUND": "MANIFEST_UNKNOWN",
    "VERSION_DELETED": "MANIFEST_UNKNOWN",
    "ALIAS_NOT_FOUND": "MANIFEST_UNKNOWN",
    "BLOB_UNKNOWN": "BLOB_UNKNOWN",
    "NAME_INVALID": "NAME_INVALID",
}
_CODES: Final = {
    grpc.StatusCode.NOT_FOUND: "MANIFEST_UNKNOWN",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHORIZED",
    grpc.StatusCode.PERMISSION_DENIED: "DENIED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "TOOMANYREQUESTS",
    grpc.StatusCode.UNIMPLEMENTED: "UNSUPPORTED",
}


def render(request: Request, problem: Problem) -> Response:
    """
    An error of an OCI registry. A caller without a token is told where to get one.
    """
    status = status_of(problem)
    code = _REASONS.get(problem.reason)
    if code is not None:
        status = 400 if code == "NAME_INVALID" else 404
    code = code or _CODES.get(problem.code, "UNKNOWN")
    headers = {} if problem.retry_after is None else {"retry-after": f"{max(1, round(problem.retry_after))}"}
    if status == 401:
        headers["www-authenticate"] = str(request.scope.get("modelyard.challenge", 'Basic realm="modelyard"'))
    return JSONResponse({"errors": [{"code": code, "message": problem.message}]}, status, headers)
