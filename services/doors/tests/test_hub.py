"""
The Hub's protocol over the gateway. What its own clients do with it: tests/doors.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from urllib.parse import quote

import pytest

import modelyard
from embedded.stack import Stack
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.doors.service.hub.snapshots import commits_of
from services.doors.tests.conftest import Publish
from services.doors.tests.http_client import ask

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "README.md": b"# hello",
    "unet/model.safetensors": b"weights" * 100,
    "unet-2/a b%c.txt": b"strange",
}


@pytest.fixture(scope="module")
def repository(namespace: str, publish: Publish) -> str:
    model = publish(FILES, "bert", alias="production", task="fill-mask", framework="transformers", license="mit")
    return f"{namespace}/{model}"


def sha(stack: Stack, repository: str, revision: str = "main") -> str:
    found: str = ask(stack.gateway, f"/api/models/{repository}/revision/{quote(revision, safe='')}").json["sha"]
    return found


def test_a_head_tells_size_digest_and_commit(stack: Stack, repository: str) -> None:
    """
    HEAD of a file answers 200 with its length, its digest as ETag and the commit id, and sends no body.
    """
    answer = ask(stack.gateway, f"/{repository}/resolve/main/unet/model.safetensors", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "700"
    assert answer.headers["x-linked-size"] == "700"
    assert answer.headers["x-repo-commit"] == sha(stack, repository)
    assert answer.headers["etag"] == answer.headers["x-linked-etag"]


def test_a_get_sends_the_client_to_the_bytes(stack: Stack, repository: str) -> None:
    """
    GET of a file redirects to /assets/ at the same gateway, where its bytes are.
    """
    answer = ask(stack.gateway, f"/{repository}/resolve/production/config.json")
    assert answer.status == 302
    start = f"http://{stack.gateway}"
    assert answer.headers["location"].startswith(f"{start}/assets/")
    assert ask(stack.gateway, answer.headers["location"].removeprefix(start)).body == FILES["config.json"]


@pytest.mark.parametrize("revision", ["main", "production", "v1", "1", "refs%2Fheads%2Fmain"])
def test_revisions_of_every_form(stack: Stack, repository: str, revision: str) -> None:
    """
    A branch, an alias, a version's number and a full ref name a version; %2F in a revision is no separator.
    """
    answer = ask(stack.gateway, f"/{repository}/resolve/{revision}/config.json", "HEAD")
    assert (answer.status, answer.headers["x-repo-commit"]) == (200, sha(stack, repository))


def test_a_commit_id_names_its_version_for_ever(stack: Stack, publish: Publish, namespace: str) -> None:
    """
    A commit id, and the beginning of it, name the same version after newer ones were made.
    """
    model = publish({"a": b"1"}, "commits")
    first = sha(stack, f"{namespace}/{model}")
    publish({"a": b"22"}, model)
    assert sha(stack, f"{namespace}/{model}") != first
    for revision in (first, first[:7]):
        answer = ask(stack.gateway, f"/{namespace}/{model}/resolve/{revision}/a", "HEAD")
        assert (answer.headers["content-length"], answer.headers["x-repo-commit"]) == ("1", first)


def test_a_commit_id_is_of_one_model(stack: Stack, publish: Publish, namespace: str) -> None:
    """
    The commit id of another model names nothing here, though both models have a version of that number.
    """
    one, other = publish({"a": b"1"}), publish({"a": b"1"})
    commit = sha(stack, f"{namespace}/{one}")
    answer = ask(stack.gateway, f"/{namespace}/{other}/resolve/{commit}/a")
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RevisionNotFound")


def test_what_does_not_exist(stack: Stack, repository: str, namespace: str) -> None:
    """
    404 says what does not exist in `X-Error-Code`; for a file also in which commit, which clients remember.
    """
    cases = {
        f"/{repository}/resolve/main/nothing.txt": "EntryNotFound",
        f"/{repository}/resolve/nothing/config.json": "RevisionNotFound",
        f"/{repository}/resolve/{'0' * 40}/config.json": "RevisionNotFound",
        f"/{namespace}/nothing/resolve/main/config.json": "RepoNotFound",
        "/nowhere/nothing/resolve/main/config.json": "RepoNotFound",
        "/NOT_A..NAME/nothing/resolve/main/config.json": "RepoNotFound",
        f"/api/models/{namespace}/nothing": "RepoNotFound",
        f"/api/models/{repository}/tree/main/nothing": "EntryNotFound",
        f"/api/models/{repository}/revision/nothing": "RevisionNotFound",
    }
    found = {path: ask(stack.gateway, path) for path in cases}
    assert {path: (each.status, each.headers.get("x-error-code")) for path, each in found.items()} == {
        path: (404, code) for path, code in cases.items()
    }
    missing = found[f"/{repository}/resolve/main/nothing.txt"]
    assert missing.headers["x-repo-commit"] == sha(stack, repository)


def test_the_description_of_a_repository(stack: Stack, repository: str) -> None:
    """
    A model is described with its task, framework, licence, commit and files.
    """
    found = ask(stack.gateway, f"/api/models/{repository}?blobs=true").json
    assert found["id"] == found["modelId"] == repository
    assert (found["pipeline_tag"], found["library_name"], found["cardData"]) == (
        "fill-mask",
        "transformers",
        {"license": "mit"},
    )
    assert {each["rfilename"]: each["size"] for each in found["siblings"]} == {
        path: len(content) for path, content in FILES.items()
    }


def test_a_tree_has_folders(stack: Stack, repository: str) -> None:
    """
    A tree lists files and folders of one level, or of all levels, in the order of their paths.
    """
    path = f"/api/models/{repository}/tree/main"
    assert [(each["type"], each["path"]) for each in ask(stack.gateway, path).json] == [
        ("file", "README.md"),
        ("file", "config.json"),
        ("directory", "unet"),
        ("directory", "unet-2"),
    ]
    assert [each["path"] for each in ask(stack.gateway, f"{path}?recursive=true").json] == [
        "README.md",
        "config.json",
        "unet",
        "unet/model.safetensors",
        "unet-2",
        "unet-2/a b%c.txt",
    ]
    assert [each["path"] for each in ask(stack.gateway, f"{path}/unet").json] == ["unet/model.safetensors"]


def test_a_large_tree_comes_in_pages(stack: Stack, publish: Publish, namespace: str) -> None:
    """
    A tree of 2,500 files comes in three pages, which together are the whole tree, and all of one commit.
    """
    model = publish({f"d{number // 100}/f{number:04}": b"x" for number in range(2500)}, "large")
    url, found, pages = f"/api/models/{namespace}/{model}/tree/main?recursive=true", [], 0
    while url:
        answer = ask(stack.gateway, url)
        found += [each["path"] for each in answer.json if each["type"] == "file"]
        pages += 1
        link = answer.headers.get("link", "")
        url = link.partition(">")[0].removeprefix(f"<http://{stack.gateway}")
        if pages == 1:
            publish({"other": b"y"}, model)
    assert pages == 3
    assert sorted(found) == [f"d{number // 100}/f{number:04}" for number in sorted(range(2500), key=_path_of)]


def _path_of(number: int) -> str:
    return f"d{number // 100}/f{number:04}"


def test_infos_of_paths(stack: Stack, repository: str) -> None:
    """
    paths-info answers for files and folders, in forms and in JSON, and leaves unknown paths out.
    """
    path = f"/api/models/{repository}/paths-info/main"
    form = ask(stack.gateway, path, "POST", b"paths=unet&paths=config.json&paths=nothing&expand=False")
    as_json = ask(
        stack.gateway,
        path,
        "POST",
        b'{"paths": ["unet", "config.json", "nothing"]}',
        content_type="application/json",
    )
    assert [(each["type"], each["path"]) for each in form.json] == [("directory", "unet"), ("file", "config.json")]
    assert as_json.json == form.json


def test_refs_are_aliases_and_versions(stack: Stack, repository: str) -> None:
    """
    `main` and the aliases are branches, the versions are tags, all with their commit ids.
    """
    found, commit = ask(stack.gateway, f"/api/models/{repository}/refs").json, sha(stack, repository)
    assert [(each["name"], each["targetCommit"]) for each in found["branches"]] == [
        ("main", commit),
        ("production", commit),
    ]
    assert [(each["name"], each["targetCommit"]) for each in found["tags"]] == [("v1", commit)]


def test_a_model_without_versions_has_a_commit(stack: Stack, yard: modelyard.Client, namespace: str) -> None:
    """
    A model without a version has the commit before it, and no files.
    """
    yard.models.CreateModel(
        models_pb2.CreateModelRequest(
            parent=f"namespaces/{namespace}", model_id="empty", model=models_pb2.Model(owner="tests")
        )
    )
    found = ask(stack.gateway, f"/api/models/{namespace}/empty").json
    assert (len(found["sha"]), found["siblings"]) == (40, [])


def test_a_deleted_version_is_no_revision(
    stack: Stack, yard: modelyard.Client, publish: Publish, namespace: str
) -> None:
    """
    The commit id of a deleted version names nothing, though its files were read just before.
    """
    model = publish({"a": b"1"}, "deleted")
    publish({"a": b"2"}, model)
    name = f"namespaces/{namespace}/models/{model}/versions/1"
    commit = sha(stack, f"{namespace}/{model}", "v1")
    yard.versions.DeleteVersion(versions_pb2.DeleteVersionRequest(name=name))
    assert ask(stack.gateway, f"/{namespace}/{model}/resolve/{commit}/a").headers["x-error-code"] == "RevisionNotFound"


def test_only_a_ready_version_is_a_revision(
    stack: Stack, yard: modelyard.Client, publish: Publish, namespace: str
) -> None:
    """
    Clients keep what a commit id names for ever: a version that is PENDING or FAILED has no number and no commit id.
    """
    model = publish({"a": b"1"}, "pending")
    name = f"namespaces/{namespace}/models/{model}"
    for _ in range(2):
        yard.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=name, version=versions_pb2.Version()))
    yard.versions.FailVersion(versions_pb2.FailVersionRequest(name=f"{name}/versions/3"))
    commits = commits_of(yard.models.GetModel(models_pb2.GetModelRequest(name=name)))
    path = f"/api/models/{namespace}/{model}/revision"
    for number in (2, 3):
        for revision in (str(number), f"v{number}", commits.of(number)):
            answer = ask(stack.gateway, f"{path}/{revision}")
            assert (answer.status, answer.headers.get("x-error-code")) == (404, "RevisionNotFound")
    assert ask(stack.gateway, f"{path}/{commits.of(1)}").json["sha"] == sha(stack, f"{namespace}/{model}")


def test_lists_go_by_author_words_and_task(stack: Stack, repository: str, namespace: str) -> None:
    """
    Models are listed by author, found by words, and filtered by task, framework and licence.
    """
    for query in (
        "filter=fill-mask",
        "filter=transformers",
        "pipeline_tag=fill-mask",
        "search=bert",
        "library=transformers",
    ):
        found = ask(stack.gateway, f"/api/models?author={namespace}&{query}").json
        assert [each["id"] for each in found] == [repository], query
    assert ask(stack.gateway, f"/api/models?author={namespace}&filter=other").json == []
    assert ask(stack.gateway, "/api/models?author=nobody-at-all").json == []


def test_a_list_comes_in_pages(stack: Stack, publish: Publish, namespace: str, repository: str) -> None:
    """
    Pages of one model each are together the whole list, each model once.
    """
    whole = [each["id"] for each in ask(stack.gateway, f"/api/models?author={namespace}").json]
    url, found = f"/api/models?author={namespace}&limit=1", []
    while url:
        answer = ask(stack.gateway, url)
        found += [each["id"] for each in answer.json]
        url = answer.headers.get("link", "").partition(">")[0].removeprefix(f"<http://{stack.gateway}")
    assert found == whole


def test_writes_say_that_they_are_not_served(stack: Stack, repository: str) -> None:
    """
    Routes that write answer 501 with one sentence in the Hub's form.
    """
    for path in (
        "/api/repos/create",
        f"/api/models/{repository}/commit/main",
        f"/{repository}.git/info/lfs/objects/batch",
        f"/api/models/{repository}/preupload/main",
    ):
        answer = ask(stack.gateway, path, "POST", b"{}", content_type="application/json")
        assert answer.status == 501, path
        assert "modelyard versions push" in answer.json["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/{repository}/resolve/main/../../../../etc/passwd",
        "/{repository}/resolve/main/%2e%2e/%2e%2e/etc/passwd",
        "/{repository}/resolve/main/..%2F..%2Fetc%2Fpasswd",
        "/{repository}/resolve/main/%00",
        "/{repository}/resolve/main/%ff",
        "/{repository}/resolve/%2e%2e/config.json",
        "/{repository}/resolve/" + "r" * 10_000 + "/config.json",
        "/api/models/{repository}/tree/main/%2e%2e",
        "/api/models/{repository}/tree/main?cursor=" + "a" * 5000,
        "/api/models?limit=-1",
        "/api/models?limit=1e9",
        "/api/models/{repository}/commits/main?p=-1",
        "/api/models?cursor=|rubbish&author={namespace}",
        "/api/models?filter=%22%20OR%20name%20!=%20%22x",
    ],
)
def test_bad_requests_get_an_answer(stack: Stack, repository: str, namespace: str, path: str) -> None:
    """
    Traversal, control characters, endless names and wrong numbers get an answer, and never a 5xx.
    """
    answer = ask(stack.gateway, path.format(repository=repository, namespace=namespace))
    assert answer.status in {200, 400, 404}
    assert b"root:" not in answer.body


def test_a_body_that_is_too_large_is_rejected(stack: Stack, repository: str) -> None:
    """
    A list of paths of more than 8 MiB is rejected with 413 before it is sent.
    """
    with closing(http.client.HTTPConnection(stack.gateway, timeout=30)) as connection:
        connection.putrequest("POST", f"/api/models/{repository}/paths-info/main")
        connection.putheader("content-length", str(9 << 20))
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_a_request_id_is_echoed(stack: Stack, repository: str) -> None:
    """
    The caller's request id comes back with every response, also with an error.
    """
    for path in (f"/api/models/{repository}", "/api/models/no/such"):
        assert ask(stack.gateway, path, x_request_id="mine-1").headers["x-request-id"] == "mine-1"
