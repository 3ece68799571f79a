"""
Doors without servers: other services that answer what they are told to, and one request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.chassis.access.tokens import Verifier
from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite


class Fake:
    """
    The other services: remembers calls.

    Args:
        answers: responses and errors, or functions that make one of a request, by the name of the RPC.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, str]] = []

    async def call(self, path: str, request: Any, answer: Any, token: str = "", *, fresh: bool = False) -> Any:
        name = path.rpartition("/")[2]
        self.calls.append((name, token))
        found = self.answers.get(name, answer())
        if callable(found):
            found = found(request)
        if isinstance(found, Exception):
            raise found
        return found

    async def stream(self, path: str, request: Any, answer: Any, token: str = "") -> AsyncGenerator[Any, None]:
        self.calls.append((path.rpartition("/")[2], token))
        for found in self.answers["Download"]:
            if isinstance(found, Exception):
                raise found
            yield found


def refused(code: grpc.StatusCode, reason: str = "", retry_after: int = 0, **metadata: str) -> grpc.aio.AioRpcError:
    """
    An error as a service answers.

    Args:
        retry_after: in seconds; 0: the service does not say.
    """
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata))
    if retry_after:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = retry_after
        status.details.add().Pack(retry)
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, "the details", None)


def ask(
    fake: Fake, method: str, path: str, body: bytes = b"", *, access: bool = False, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """
    Status, headers and decoded body of one request.

    Args:
        access: whether access control is on.
    """
    suite = cast(Suite, fake)
    verifier = cast(Verifier, object()) if access else None
    app = application(Doors(suite=suite, registry=Registry(suite), verifier=verifier))
    sent: list[dict[str, Any]] = []
    raw, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "yard", **headers}.items()],
    }

    received = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        # After the body comes nothing, until the client hangs up.
        return received.pop() if received else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(cast(Any, app(scope, cast(Any, receive), cast(Any, send))))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    content = b"".join(each.get("body", b"") for each in sent[1:])
    is_json = found.get("content-type") == "application/json"
    return sent[0]["status"], found, json.loads(content) if is_json else content
