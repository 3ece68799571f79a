"""
What the handlers of all protocols share: routes, the caller's token, bodies, and errors in the form of the protocol.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

import grpc
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard.error_details import Problem, Violation, explain
from services.chassis.errors import InvalidArgument, ModelyardError, Unauthenticated
from services.chassis.serving.http_calls import ROUTE

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
#: Renders an error as the clients of a protocol expect it.
Render = Callable[[Request, Problem], Response]

#: Statuses of HTTP by status of gRPC (google.rpc.Code); protocols that differ say so.
HTTP_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_MOST_BODY = 1 << 20
_BODY_SECONDS = 30.0
_HANDLER_SECONDS = 60.0
#: The registry's reason for a search that asks for too much.
SEARCH_TOO_SLOW: Final = "SEARCH_TOO_SLOW"
#: The reason of a request that took too long.
TOO_SLOW: Final = "REQUEST_TOO_SLOW"
_TOO_LARGE, _BODY_TOO_SLOW = "BODY_TOO_LARGE", "BODY_TOO_SLOW"
_BODY_STATUS: Final = {_TOO_LARGE: 413, _BODY_TOO_SLOW: 408}
_MOST_SEGMENT = 4096
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


def route(path: str, name: str, handler: Handler, render: Render, methods: Sequence[str] = ("GET",)) -> Route:
    """
    A route whose errors have the form of its protocol.

    Args:
        path: as Starlette's, matched against the path as it was sent: `%2F` in a parameter is no separator.
        name: in metrics, logs and spans.
        handler: answers. It raises `services.chassis.errors`, or what a call of another service raised.
        render: of its protocol.
        methods: of HTTP. HEAD has to be named.
    """

    async def answer(request: Request) -> Response:
        request.scope[ROUTE] = name
        try:
            # The gateway sets none, for the sake of large bodies, and a client that hangs up ends no handler.
            async with asyncio.timeout(_HANDLER_SECONDS):
                return await handler(request)
        except TimeoutError:
            return render(request, _deadline())
        except ModelyardError as error:
            return render(request, _problem(error))
        except grpc.aio.AioRpcError as error:
            return render(request, explain(error))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:  # noqa: BLE001 - whatever a handler raises, the client gets an answer that it can read
            _log.exception("%s failed", name)
            return render(request, Problem(grpc.StatusCode.INTERNAL, "internal error"))

    found = Route(path, answer, methods=list(methods), name=name)
    # Starlette adds HEAD to GET; a body that nobody reads would be made.
    found.methods = set(methods)
    return found


def parameter(request: Request, name: str) -> str:
    """
    A parameter of the path, decoded.

    Raises:
        InvalidArgument: it is not UTF-8, has control characters, or is too long.
    """
    return decoded(str(request.path_params[name]), name)


def decoded(raw: str, field: str) -> str:
    """
    A part of a path, percent-decoded.

    Raises:
        InvalidArgument: it is not UTF-8, has control characters, or is too long.
    """
    if len(raw) > _MOST_SEGMENT:
        raise InvalidArgument.of(field, f"is longer than {_MOST_SEGMENT} characters")
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidArgument.of(field, "is not UTF-8") from None
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise InvalidArgument.of(field, "has control characters")
    return text


def token(request: Request) -> str:
    """
    The caller's token: a bearer token, or the password of Basic authentication; empty for none.

    Raises:
        Unauthenticated: the header has another scheme, cannot be read, or no call can have the token (TOKEN_INVALID).
    """
    header = request.headers.get("authorization")
    if not header:
        return ""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return sendable(value)
    if scheme.lower() == "basic":
        try:
            return sendable(base64.b64decode(value, validate=True).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise Unauthenticated("TOKEN_INVALID", "send the token as authorization: Bearer …, or as the password of Basic")


def sendable(token: str) -> str:
    """
    A token, as far as it can be sent to the other services; the empty one is no token.

    Raises:
        Unauthenticated: it has characters that no header of a call can have (TOKEN_INVALID).
    """
    if token and not _TOKEN.fullmatch(token):
        raise Unauthenticated("TOKEN_INVALID", "the token has characters that no token has: send it as it was issued")
    return token


def with_password(request: Request) -> bool:
    """
    Whether the token came as the password of Basic authentication.
    """
    return request.headers.get("authorization", "")[:6].lower() == "basic "


async def body(request: Request, most: int = _MOST_BODY) -> bytes:
    """
    The whole body of a request.

    Args:
        most: bytes.

    Raises:
        InvalidArgument: it is larger, or it takes longer than half a minute.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        # The gateway lets bodies take their time, as uploads do: these are small.
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        text = f"{_BODY_TOO_SLOW}: the body did not arrive within {_BODY_SECONDS:g} s"
        raise InvalidArgument.of("body", text) from None
    return b"".join(parts)


async def json_body(request: Request, most: int = _MOST_BODY) -> dict[str, Any]:
    """
    The body of a request, which is a JSON object.

    Raises:
        InvalidArgument: it is not, or it is larger than *most* bytes.
    """
    data = await body(request, most)
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise InvalidArgument.of("body", "is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidArgument.of("body", "is not a JSON object")
    return found


async def form_body(request: Request, most: int, fields: int) -> dict[str, list[str]]:
    """
    The body of a request, which is a form.

    Args:
        most: bytes.
        fields: that it may have.

    Raises:
        InvalidArgument: it is larger, or has more.
    """
    data = (await body(request, most)).decode("utf-8", "replace")
    try:
        return parse_qs(data, max_num_fields=fields)
    except ValueError:
        raise InvalidArgument.of("body", f"has more than {fields} fields") from None


def status_of(problem: Problem) -> int:
    """
    The status of HTTP for an error, where the protocol has no other.
    """
    for begins, status in _BODY_STATUS.items():
        if any(each.description.startswith(begins) for each in problem.violations):
            return status
    if problem.reason == SEARCH_TOO_SLOW:
        # It is the search that has to change. Clients repeat what is answered 5xx.
        return 400
    return HTTP_STATUS.get(problem.code, 500)


def _too_large(most: int) -> InvalidArgument:
    return InvalidArgument.of("body", f"{_TOO_LARGE}: the body is larger than {most} bytes")


def _deadline() -> Problem:
    return Problem(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        f"the request took longer than {_HANDLER_SECONDS:g} s: ask for less at once",
        TOO_SLOW,
    )


def _problem(error: ModelyardError) -> Problem:
    violations = error.violations if isinstance(error, InvalidArgument) else ()
    return Problem(
        code=grpc.StatusCode[error.code],
        message=error.message,
        reason=error.reason,
        metadata=dict(error.metadata),
        violations=tuple(Violation(each.field, each.description) for each in violations),
        retry_after=error.retry_after,
    )
