"""
Errors as clients of the Hub read them: a status, `X-Error-Code` and `X-Error-Message`.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.error_details import Problem
from services.doors.service.http import status_of

_MOST_MESSAGE = 500
#: Error codes of the Hub by reasons of the registry.
_CODES: Final = {
    "NAMESPACE_NOT_FOUND": "RepoNotFound",
    "MODEL_NOT_FOUND": "RepoNotFound",
    "MODEL_DELETED": "RepoNotFound",
    "VERSION_NOT_FOUND": "RevisionNotFound",
    "VERSION_DELETED": "RevisionNotFound",
    "ALIAS_NOT_FOUND": "RevisionNotFound",
    "FILE_NOT_FOUND": "EntryNotFound",
}


def render(_request: Request, problem: Problem) -> Response:
    """
    An error of the Hub.
    """
    status = status_of(problem)
    headers = {"x-error-message": _header(problem.message)}
    # What cannot be a name is the name of nothing.
    named = any(each.field in {"name", "parent"} for each in problem.violations)
    if code := "RepoNotFound" if named else _CODES.get(problem.reason):
        status = 404
        headers["x-error-code"] = code
    if problem.retry_after is not None:
        headers["retry-after"] = f"{max(1, round(problem.retry_after))}"
    if commit := (problem.metadata or {}).get("commit"):
        headers["x-repo-commit"] = commit
    return JSONResponse({"error": problem.message}, status, headers)


def _header(text: str) -> str:
    plain = text.encode("ascii", "replace").decode()
    return "".join(each if each.isprintable() else " " for each in plain)[:_MOST_MESSAGE]
