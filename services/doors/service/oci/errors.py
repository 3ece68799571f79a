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

#: In the scope of a request: where a caller gets a token, the value of WWW-Authenticate.
CHALLENGE: Final = "modelyard.oci.challenge"
#: In the scope of a request: whether it came without credentials, though there are some.
NOBODY: Final = "modelyard.oci.nobody"

#: Statuses and codes of the specification by reasons of the registry.
_REASONS: Final = {
    "NAMESPACE_NOT_FOUND": (404, "NAME_UNKNOWN"),
    "MODEL_NOT_FOUND": (404, "NAME_UNKNOWN"),
    "MODEL_DELETED": (404, "NAME_UNKNOWN"),
    "VERSION_NOT_FOUND": (404, "MANIFEST_UNKNOWN"),
    "VERSION_DELETED": (404, "MANIFEST_UNKNOWN"),
    "VERSION_NOT_READY": (404, "MANIFEST_UNKNOWN"),
    "ALIAS_NOT_FOUND": (404, "MANIFEST_UNKNOWN"),
    "OCI_MANIFEST_PENDING": (404, "MANIFEST_UNKNOWN"),
    "OCI_MANIFEST_TOO_LARGE": (413, "MANIFEST_INVALID"),
    "BLOB_UNKNOWN": (404, "BLOB_UNKNOWN"),
}
#: By the field that is invalid.
_FIELDS: Final = {
    "name": (400, "NAME_INVALID"),
    "parent": (400, "NAME_INVALID"),
    "digest": (400, "DIGEST_INVALID"),
    # What is no tag of ours is a tag that nothing has.
    "reference": (404, "MANIFEST_UNKNOWN"),
}
_CODES: Final = {
    grpc.StatusCode.NOT_FOUND: "MANIFEST_UNKNOWN",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHORIZED",
    grpc.StatusCode.PERMISSION_DENIED: "DENIED",
    grpc.StatusCode.INTERNAL: "UNKNOWN",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "TOOMANYREQUESTS",
}


def render(request: Request, problem: Problem) -> Response:
    """
    An error of an OCI registry. A caller without a token is told where to get one, also where there may be nothing.
    """
    status, code = _found(problem)
    message = problem.message or code
    if request.scope.get(NOBODY) and code in {"NAME_UNKNOWN", "DENIED"}:
        # What is hidden and what is not there look the same.
        status, code, message = 401, "UNAUTHORIZED", "this needs a token, as the password of a login"
    headers = {} if problem.retry_after is None else {"retry-after": f"{max(1, round(problem.retry_after))}"}
    if status == 401:
        headers["www-authenticate"] = str(request.scope.get(CHALLENGE, 'Basic realm="modelyard"'))
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status, headers)


def unsupported(message: str, status: int = 405) -> Response:
    """
    The error for what this registry does not do.
    """
    headers = {"allow": "GET, HEAD"} if status == 405 else {}
    return JSONResponse({"errors": [{"code": "UNSUPPORTED", "message": message}]}, status, headers)


def _found(problem: Problem) -> tuple[int, str]:
    if (known := _REASONS.get(problem.reason)) is not None:
        return known
    for violation in problem.violations:
        if (known := _FIELDS.get(violation.field)) is not None:
            return known
    return status_of(problem), _CODES.get(problem.code, "UNSUPPORTED")
