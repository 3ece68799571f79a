"""
What MLflow's handlers ask the other services, and how they say that those refused; without servers.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.chassis.access.tokens import Verifier
from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite


class Fake:
    """
    The other services: remembers calls, and answers what it was told to, by the name of the RPC.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, str]] = []

    async def call(self, path: str, request: Any, answer: Any, token: str = "", *, fresh: bool = False) -> Any:
        name = path.rpartition("/")[2]
        self.calls.append((name, token))
        found = self.answers.get(name, answer())
        if isinstance(found, Exception):
            raise found
        return found

    async def stream(self, path: str, request: Any, answer: Any, token: str = "") -> AsyncGenerator[Any, None]:
        self.calls.append((path.rpartition("/")[2], token))
        for found in self.answers["Download"]:
            if isinstance(found, Exception):
                raise found
            yield found


def refused(code: grpc.StatusCode, reason: str = "") -> grpc.aio.AioRpcError:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason))
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, "the details", None)


def ask(
    fake: Fake, method: str, path: str, body: bytes = b"", *, access: bool = False, **headers: str
) -> tuple[int, dict[str, str], Any]:
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


GET = "/api/2.0/mlflow/registered-models/get?name=wine"


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_the_callers_own_token_travels(scheme: str) -> None:
    """
    A bearer token, or the password of Basic authentication, goes along with every call.
    """
    value = "the-token" if scheme == "bearer" else base64.b64encode(b"ann:the-token").decode()
    fake = Fake()
    ask(fake, "GET", GET, authorization=f"{scheme.title()} {value}")
    assert fake.calls == [("GetModel", "the-token")]


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 401, "UNAUTHENTICATED"),
        (grpc.StatusCode.PERMISSION_DENIED, 403, "PERMISSION_DENIED"),
        (grpc.StatusCode.NOT_FOUND, 404, "RESOURCE_DOES_NOT_EXIST"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 400, "RESOURCE_EXHAUSTED"),
        (grpc.StatusCode.FAILED_PRECONDITION, 400, "INVALID_PARAMETER_VALUE"),
        (grpc.StatusCode.ABORTED, 503, "TEMPORARILY_UNAVAILABLE"),
        (grpc.StatusCode.UNAVAILABLE, 503, "TEMPORARILY_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 503, "TEMPORARILY_UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, 500, "INTERNAL_ERROR"),
    ],
)
def test_statuses_have_mlflows_codes(code: grpc.StatusCode, status: int, error: str) -> None:
    """
    What the registry answers is told in MLflow's codes; 401 says how to authenticate.
    """
    found, headers, body = ask(Fake(GetModel=refused(code)), "GET", GET)
    assert (found, body["error_code"]) == (status, error)
    assert ("www-authenticate" in headers) == (status == 401)


def test_a_version_that_cannot_be_finalized_is_failed() -> None:
    """
    Clients repeat a call that was answered 503: what the first one left is FAILED, and not PENDING for ever.
    """
    made = versions_pb2.Version(name="namespaces/default/models/wine/versions/1")
    fake = Fake(CreateVersion=made, FinalizeVersion=refused(grpc.StatusCode.UNAVAILABLE))
    body = b'{"name": "wine", "source": "s3://b/m"}'
    status, _, _ = ask(fake, "POST", "/api/2.0/mlflow/model-versions/create", body)
    assert status == 503
    assert [name for name, _ in fake.calls] == ["CreateVersion", "FinalizeVersion", "FailVersion"]


def test_a_model_is_purged_only_where_a_deleted_one_is_in_the_way() -> None:
    """
    Creating a model needs no right to delete models, and leaves one that lives alone.
    """
    body = b'{"name": "wine"}'
    path = "/api/2.0/mlflow/registered-models/create"
    fake = Fake()
    ask(fake, "POST", path, body)
    exists = refused(grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS")
    alive, deleted = models_pb2.Model(name="x"), models_pb2.Model(name="x")
    deleted.delete_time.GetCurrentTime()
    assert [name for name, _ in fake.calls] == ["CreateModel"]
    for found, calls in ((alive, 1), (deleted, 2)):
        fake = Fake(CreateModel=exists, GetModel=found)
        status, _, answer = ask(fake, "POST", path, body)
        assert (status, answer["message"]) == (400, "Registered Model (name=wine) already exists.")
        assert [name for name, _ in fake.calls].count("CreateModel") == calls


def test_one_call_reads_a_model_or_a_version() -> None:
    """
    Clients read models and versions often: each costs one call, and never a manifest.
    """
    fake = Fake(SearchVersions=versions_pb2.SearchVersionsResponse(versions=[versions_pb2.Version(number=1)]))
    ask(fake, "GET", GET)
    ask(fake, "GET", "/api/2.0/mlflow/model-versions/get?name=wine&version=1")
    assert [name for name, _ in fake.calls] == ["GetModel", "SearchVersions"]


def test_who_sends_a_password_gets_the_bytes_themselves() -> None:
    """
    The gateway reads tokens at /assets/, and no passwords: a redirect there would end in a 401.
    """
    version = versions_pb2.Version(
        state=versions_pb2.Version.STATE_READY,
        artifacts=[versions_pb2.Artifact(path="a", sha256="0" * 64, size_bytes=4)],
    )
    parts = [assets_pb2.DownloadResponse(chunk=assets_pb2.Chunk(data=each)) for each in (b"by", b"te")]
    path = "/api/2.0/mlflow-artifacts/artifacts/models/wine/versions/1/a"
    password = f"Basic {base64.b64encode(b'ann:the-token').decode()}"
    fake = Fake(GetVersion=version, Download=parts)
    status, headers, content = ask(fake, "GET", path, access=True, authorization=password)
    assert (status, headers["content-length"], content) == (200, "4", b"byte")
    assert fake.calls == [("GetVersion", "the-token"), ("Download", "the-token")]
    assert ask(fake, "GET", path, access=True, authorization="Bearer the-token")[0] == 307
    fake = Fake(GetVersion=version, Download=[refused(grpc.StatusCode.PERMISSION_DENIED)])
    assert ask(fake, "GET", path, access=True, authorization=password)[0] == 403
