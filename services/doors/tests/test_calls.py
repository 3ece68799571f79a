"""
What the doors ask the other services, whatever the protocol; without servers.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from modelyard.registry.v1 import models_pb2, namespaces_pb2, versions_pb2
from services.doors.tests.fakes import Fake, ask

VERSION = "/api/2.0/mlflow/model-versions"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/models/wine", b""),
        ("GET", "/api/models/wine/auth-check", b""),
        ("HEAD", "/wine/resolve/main/a", b""),
        ("GET", f"{VERSION}/get-download-uri?name=wine&version=1", b""),
        ("POST", f"{VERSION}/create", b'{"name": "copy", "source": "models:/wine/1"}'),
        ("GET", f"{ARTIFACTS}?path=models/wine/versions/1", b""),
        ("GET", f"{ARTIFACTS}/models/wine/versions/1/a", b""),
    ],
)
def test_a_deleted_model_has_no_files(method: str, path: str, body: bytes) -> None:
    """
    The registry tells of a deleted model and of its versions until it is purged: here they are not found.
    """
    artifacts = [versions_pb2.Artifact(path="a", sha256="0" * 64, size_bytes=4)]
    version = versions_pb2.Version(number=1, state=versions_pb2.Version.STATE_READY, artifacts=artifacts)
    model = models_pb2.Model(name="namespaces/default/models/wine")
    answers: dict[str, Any] = {"GetVersion": version, "ResolveVersion": version, "GetModel": model}
    assert ask(Fake(**answers), method, path, body)[0] < 400
    model.delete_time.GetCurrentTime()
    assert ask(Fake(**answers), method, path, body)[0] == 404


def following(fake: Fake, path: str) -> list[tuple[dict[str, str], Any]]:
    """
    Headers and bodies of a list's pages, each by the link of the one before.
    """
    pages = []
    while path:
        status, headers, body = ask(fake, "GET", path)
        assert status == 200
        pages.append((headers, body))
        path = headers.get("link", "").partition(">")[0].partition("yard")[2]
    return pages


def test_a_list_of_models_asks_a_few_namespaces_at_once() -> None:
    """
    One request searches at most 50 namespaces, and links to the rest, though it found nothing.
    """
    asked: list[str] = []

    def search(request: models_pb2.SearchModelsRequest) -> models_pb2.SearchModelsResponse:
        asked.append(request.parent)
        return models_pb2.SearchModelsResponse()

    namespaces = [namespaces_pb2.Namespace(name=f"namespaces/n{number:03}") for number in range(120)]
    fake = Fake(ListNamespaces=namespaces_pb2.ListNamespacesResponse(namespaces=namespaces), SearchModels=search)
    ask(fake, "GET", "/api/models")
    assert len(asked) == 50
    asked.clear()
    assert [body for _, body in following(fake, "/api/models?search=x")] == [[], [], []]
    assert asked == [each.name for each in namespaces]


def test_a_page_of_commits_reads_no_more_versions_than_it_shows() -> None:
    """
    Pages of commits read the versions that they show; how many there are is told by the page that reaches the first.
    """

    def versions(request: versions_pb2.ListVersionsRequest) -> versions_pb2.ListVersionsResponse:
        first = int(request.page_token or 2500)
        numbers = range(first, max(first - 1000, 0), -1)
        found = [versions_pb2.Version(number=each, state=versions_pb2.Version.STATE_READY) for each in numbers]
        token = str(numbers[-1] - 1) if numbers[-1] > 1 else ""
        return versions_pb2.ListVersionsResponse(versions=found, next_page_token=token)

    newest = versions_pb2.Version(number=2500, state=versions_pb2.Version.STATE_READY)
    model = models_pb2.Model(name="namespaces/default/models/wine")
    fake = Fake(GetModel=model, ResolveVersion=newest, ListVersions=versions)
    _, headers, body = ask(fake, "GET", "/api/models/wine/commits/main")
    assert (len(body), "x-total-count" in headers) == (50, False)
    assert [name for name, _ in fake.calls].count("ListVersions") == 1
    pages = following(fake, "/api/models/wine/commits/main?limit=1000")
    assert [len(body) for _, body in pages] == [1000, 1000, 501]
    assert [headers.get("x-total-count") for headers, _ in pages] == [None, None, "2501"]
    assert len({each["id"] for _, body in pages for each in body}) == 2501


@pytest.mark.parametrize("password", ["caf\u00e9", "two words", "bell\x07"])
@pytest.mark.parametrize("path", ["/api/models/wine", "/v2/default/wine/tags/list", f"{VERSION}/search"])
def test_a_token_that_cannot_be_sent_on_is_no_token(path: str, password: str) -> None:
    """
    What cannot be in a header of a call is answered 401, and no service is called.
    """
    basic = base64.b64encode(f"ann:{password}".encode()).decode()
    for header in (f"Bearer {password}", f"Basic {basic}"):
        fake = Fake()
        assert ask(fake, "GET", path, authorization=header)[0] == 401
        assert fake.calls == []
    form = f"grant_type=password&password={quote(password)}"
    assert ask(Fake(), "POST", "/v2/token", form.encode())[0] == 401


def test_a_search_ends_when_its_answer_is_large() -> None:
    """
    Annotations may have a MiB each: an answer of many versions ends after some MiB, and clients follow its token.
    """

    def search(request: versions_pb2.SearchVersionsRequest) -> versions_pb2.SearchVersionsResponse:
        number = int(request.page_token or 1)
        version = versions_pb2.Version(name=f"namespaces/default/models/wine/versions/{number}", number=number)
        version.annotations["notes"] = "x" * (1 << 20)
        return versions_pb2.SearchVersionsResponse(versions=[version], next_page_token=str(number + 1))

    fake = Fake(SearchVersions=search)
    _, _, body = ask(fake, "GET", f"{VERSION}/search?max_results=40")
    assert len(body["model_versions"]) == len(fake.calls) < 20
    _, _, after = ask(fake, "GET", f"{VERSION}/search?max_results=1&page_token={body['next_page_token']}")
    assert int(after["model_versions"][0]["version"]) == len(body["model_versions"]) + 1


@pytest.mark.parametrize(("path", "most"), [("/v2/token", 32), ("/api/models/wine/paths-info/main", 20_000)])
def test_a_form_of_too_many_fields_is_wrong(path: str, most: int) -> None:
    """
    A form of more fields than any client sends is answered 400.
    """
    status, _, body = ask(Fake(), "POST", path, b"&".join([b"a=b"] * (most + 1)))
    assert (status, "fields" in str(body)) == (400, True)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/models/wine", {"error": "internal error"}),
        ("/v2/default/wine/tags/list", {"errors": [{"code": "UNKNOWN", "message": "internal error"}]}),
        (f"{VERSION}/search", {"error_code": "INTERNAL_ERROR", "message": "internal error"}),
    ],
)
def test_a_failure_has_the_form_of_its_protocol(path: str, error: object, caplog: pytest.LogCaptureFixture) -> None:
    """
    What nobody expected is answered 500 in the form of the protocol, which says nothing, and is logged once.
    """
    broken = ValueError("a secret")
    fake = Fake(GetModel=broken, GetOciTags=broken, SearchVersions=broken)
    status, _, body = ask(fake, "GET", path)
    assert (status, body) == (500, error)
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize(("path", "key"), [("/v2", "errors"), ("/v2/", "errors"), ("/v2x/a/b/c/d", "error")])
def test_what_is_not_served_is_told_in_the_form_of_the_paths_protocol(path: str, key: str) -> None:
    """
    An error has the form of OCI registries below /v2/, and nowhere else.
    """
    status, _, body = ask(Fake(), "TRACE", path)
    assert (status in {404, 405}, list(body)) == (True, [key])


def test_a_path_that_is_asked_for_twice_is_looked_up_once() -> None:
    """
    A list of paths has one entry for each, however often it is named.
    """
    artifacts = [versions_pb2.Artifact(path="a/b", sha256="0" * 64, size_bytes=4)]
    version = versions_pb2.Version(number=1, state=versions_pb2.Version.STATE_READY, artifacts=artifacts)
    fake = Fake(GetModel=models_pb2.Model(), ResolveVersion=version)
    _, _, body = ask(fake, "POST", "/api/models/wine/paths-info/main", b"paths=a&paths=a/b&paths=a/&paths=a/b")
    assert [each["path"] for each in body] == ["a", "a/b"]
