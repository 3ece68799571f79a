"""
What MLflow's handlers ask the other services, and how they say that those refused; without servers.
"""

from __future__ import annotations

import base64

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.doors.tests.fakes import Fake, ask, refused

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


def test_what_a_repetition_helps_is_told_by_its_reason() -> None:
    """
    Clients repeat 429 and 5xx: a search that is too slow is wrong for them, a quota that is used up stays so, and a
    registry that is busy says when to come again.
    """
    slow = refused(grpc.StatusCode.DEADLINE_EXCEEDED, "SEARCH_TOO_SLOW")
    busy = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "DATABASE_BUSY", retry_after=2)
    quota = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    cases = {
        slow: (400, "INVALID_PARAMETER_VALUE", None),
        busy: (429, "REQUEST_LIMIT_EXCEEDED", "2"),
        quota: (400, "RESOURCE_EXHAUSTED", None),
    }
    for error, expected in cases.items():
        status, headers, body = ask(Fake(GetModel=error), "GET", GET)
        assert (status, body["error_code"], headers.get("retry-after")) == expected
    for error, expected_status in ((slow, 400), (busy, 429)):
        assert ask(Fake(GetModel=error), "GET", "/api/models/wine")[0] == expected_status
        assert ask(Fake(GetOciTags=error), "GET", "/v2/default/wine/tags/list")[0] == expected_status


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
    assert set(fake.calls) == {(name, "the-token") for name in ("GetModel", "GetVersion", "Download")}
    assert ask(fake, "GET", path, access=True, authorization="Bearer the-token")[0] == 307
    fake = Fake(GetVersion=version, Download=[refused(grpc.StatusCode.PERMISSION_DENIED)])
    assert ask(fake, "GET", path, access=True, authorization=password)[0] == 403
