"""
The protocol of OCI registries over the gateway. What their own clients do with it: test_oci_clients.py.

Each MUST of the distribution specification's categories Pull and Content Discovery is a test, whose docstring names the
paragraph (https://github.com/opencontainers/distribution-spec/blob/main/spec.md).
"""

from __future__ import annotations

import hashlib
import http.client
import json
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.registry.v1 import aliases_pb2, models_pb2, namespaces_pb2, policies_pb2, versions_pb2
from modelyard.tokens import mint
from services.doors.tests.conftest import Publish, store
from services.doors.tests.http_client import Answer, ask

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "README.md": b"# hello",
    "unet/model.safetensors": b"oci weights" * 100,
    "empty.txt": b"",
}
NOTHING = f"sha256:{'0' * 64}"
DIGEST = "docker-content-digest"


@pytest.fixture(scope="module")
def repository(namespace: str, publish: Publish) -> str:
    return f"{namespace}/{publish(FILES, 'bert', alias='production', license='mit')}"


@pytest.fixture(scope="module")
def manifest(stack: Stack, repository: str) -> Answer:
    return ask(stack.gateway, f"/v2/{repository}/manifests/production")


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def code(answer: Answer) -> str:
    """
    The code of an error; the answer has to have the form of the specification.
    """
    errors = answer.json["errors"]
    assert [set(each) - {"detail"} for each in errors] == [{"code", "message"}]
    assert errors[0]["message"]
    found: str = errors[0]["code"]
    return found


def test_the_version_is_told(stack: Stack) -> None:
    """
    API, "Determining Support": GET /v2/ answers 200.
    """
    for path in ("/v2/", "/v2"):
        assert ask(stack.gateway, path).status == 200


@pytest.mark.parametrize("tag", ["production", "latest", "v1"])
def test_a_manifest_by_tag(stack: Stack, repository: str, manifest: Answer, tag: str) -> None:
    """
    Pulling manifests: GET of an existing manifest MUST provide it with 200 OK, and its digest in the header
    Docker-Content-Digest, which clients MUST be able to verify.
    """
    answer = ask(stack.gateway, f"/v2/{repository}/manifests/{tag}", accept=MANIFEST)
    assert (answer.status, answer.body) == (200, manifest.body)
    assert answer.headers[DIGEST] == sha256(answer.body)


def test_the_type_of_a_manifest(manifest: Answer) -> None:
    """
    Pulling manifests: Content-Type is the type of the manifest, the value of its mediaType, without parameters.
    """
    assert manifest.headers["content-type"] == MANIFEST == manifest.json["mediaType"]


def test_a_manifest_by_digest(stack: Stack, repository: str, manifest: Answer, publish: Publish) -> None:
    """
    Pulling manifests: <reference> MUST be a digest or a tag; the manifest of a digest stays the same when tags move.
    """
    publish({"other": b"newer"}, repository.partition("/")[2])
    answer = ask(stack.gateway, f"/v2/{repository}/manifests/{manifest.headers[DIGEST]}")
    assert (answer.status, answer.body) == (200, manifest.body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "reference", ["nothing", "v99", NOTHING, f"sha512:{'0' * 128}", "not.a..tag-", "UPPER", ".dot", "production-image"]
)
def test_a_manifest_that_is_not_there(stack: Stack, repository: str, method: str, reference: str) -> None:
    """
    Pulling manifests: the response to a manifest that is not found MUST be 404; so for HEAD.
    """
    answer = ask(stack.gateway, f"/v2/{repository}/manifests/{reference}", method)
    assert answer.status == 404
    assert method == "HEAD" or code(answer) == "MANIFEST_UNKNOWN"


def test_a_manifest_is_a_modelpack(manifest: Answer) -> None:
    """
    A version is a ModelPack artifact: its layers are its files, by their own digests, with their paths.
    """
    found = manifest.json
    assert found["schemaVersion"] == 2
    assert found["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert found["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    layers = {
        each["annotations"]["org.cncf.model.filepath"]: (each["digest"], each["size"]) for each in found["layers"]
    }
    assert layers == {path: (sha256(content), len(content)) for path, content in FILES.items()}


def test_what_a_client_accepts(stack: Stack, repository: str) -> None:
    """
    Pulling manifests: Accept says which types a client supports. One that supports none of ours gets 404 and is told.
    """
    path = f"/v2/{repository}/manifests/latest"
    for accepted in ("*/*", "application/*", f"text/html, {MANIFEST};q=0.5", INDEX + "," + MANIFEST):
        assert ask(stack.gateway, path, accept=accepted).status == 200, accepted
    answer = ask(stack.gateway, path, accept="application/vnd.docker.distribution.manifest.v2+json")
    assert (answer.status, code(answer)) == (404, "MANIFEST_UNKNOWN")
    assert MANIFEST in answer.json["errors"][0]["message"]


@pytest.mark.parametrize("path", FILES)
def test_a_blob(stack: Stack, repository: str, path: str) -> None:
    """
    Pulling blobs: GET of an existing blob MUST provide it with 200 OK (after a redirect to its bytes), and the digest
    of the body in Docker-Content-Digest.
    """
    answer = ask(stack.gateway, f"/v2/{repository}/blobs/{sha256(FILES[path])}")
    assert (answer.status, answer.headers[DIGEST]) == (307, sha256(FILES[path]))
    start = f"http://{stack.gateway}"
    assert answer.headers["location"].startswith(f"{start}/assets/")
    bytes_ = ask(stack.gateway, answer.headers["location"].removeprefix(start))
    assert (bytes_.status, bytes_.body, bytes_.headers[DIGEST]) == (200, FILES[path], sha256(FILES[path]))


def test_the_configuration_is_a_blob(stack: Stack, repository: str, manifest: Answer) -> None:
    """
    Pulling blobs: the configuration is a blob as any other: 200 OK, its bytes, and their digest.
    """
    config = manifest.json["config"]
    answer = ask(stack.gateway, f"/v2/{repository}/blobs/{config['digest']}")
    assert (answer.status, answer.headers[DIGEST]) == (200, config["digest"])
    assert (sha256(answer.body), len(answer.body)) == (config["digest"], config["size"])
    assert answer.json["descriptor"]["licenses"] == ["mit"]


def test_a_range_of_a_blob(stack: Stack, repository: str) -> None:
    """
    Pulling blobs: a registry SHOULD support Range (RFC 9110): what is behind the redirect does.
    """
    content = FILES["unet/model.safetensors"]
    answer = ask(stack.gateway, f"/v2/{repository}/blobs/{sha256(content)}", range="bytes=4-10")
    location = answer.headers["location"].removeprefix(f"http://{stack.gateway}")
    part = ask(stack.gateway, location, range="bytes=4-10")
    assert (part.status, part.body) == (206, content[4:11])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_blob_that_is_not_there(
    stack: Stack, yard: modelyard.Client, repository: str, manifest: Answer, method: str
) -> None:
    """
    Pulling blobs: the response to a blob that is not found in the repository MUST be 404, also if it is in another one.
    """
    elsewhere = sha256(b"elsewhere")
    assert f"sha256:{store(yard, b'elsewhere')}" == elsewhere
    for digest in (NOTHING, elsewhere, f"sha512:{'0' * 128}", manifest.headers[DIGEST]):
        answer = ask(stack.gateway, f"/v2/{repository}/blobs/{digest}", method)
        assert answer.status == 404
        assert method == "HEAD" or code(answer) == "BLOB_UNKNOWN"


def test_the_head_of_a_manifest(stack: Stack, repository: str, manifest: Answer) -> None:
    """
    Checking if content exists: HEAD of an existing manifest MUST return 200 OK, its digest in Docker-Content-Digest and
    its size in Content-Length.
    """
    for reference in ("production", manifest.headers[DIGEST]):
        answer = ask(stack.gateway, f"/v2/{repository}/manifests/{reference}", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers[DIGEST] == manifest.headers[DIGEST]
        assert answer.headers["content-length"] == str(len(manifest.body))
        assert answer.headers["content-type"] == MANIFEST


def test_the_head_of_a_blob(stack: Stack, repository: str, manifest: Answer) -> None:
    """
    Checking if content exists: HEAD of an existing blob MUST return 200 OK, its digest in Docker-Content-Digest and its
    size in Content-Length.
    """
    for each in (manifest.json["config"], *manifest.json["layers"]):
        answer = ask(stack.gateway, f"/v2/{repository}/blobs/{each['digest']}", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert (answer.headers[DIGEST], answer.headers["content-length"]) == (each["digest"], str(each["size"]))


@pytest.fixture(scope="module")
def tagged(yard: modelyard.Client, namespace: str, publish: Publish) -> str:
    """
    A repository with eleven versions and two aliases.
    """
    for number in range(11):
        publish({"a": str(number).encode()}, "tagged")
    name = f"namespaces/{namespace}/models/tagged"
    moves = [
        aliases_pb2.MoveAliasesRequest.Move(alias_id=alias, version=f"{name}/versions/3") for alias in ("staging", "a")
    ]
    yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=name, moves=moves))
    return f"{namespace}/tagged"


TAGS = ["a", "latest", "staging", "v1", "v10", "v11", *(f"v{number}" for number in range(2, 10))]


def test_the_list_of_tags(stack: Stack, tagged: str) -> None:
    """
    Listing Tags: for a repository that is found it MUST return 200 OK and a JSON body with name and tags, which MUST be
    in lexical or "ASCIIbetical" order.
    """
    answer = ask(stack.gateway, f"/v2/{tagged}/tags/list")
    assert (answer.status, answer.json) == (200, {"name": tagged, "tags": TAGS})
    assert sorted(TAGS) == TAGS


def test_an_empty_list_of_tags(stack: Stack, yard: modelyard.Client, namespace: str) -> None:
    """
    Listing Tags: the list MAY be empty; the repository is found all the same.
    """
    request = models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id="no-tags")
    yard.models.CreateModel(request)
    answer = ask(stack.gateway, f"/v2/{namespace}/no-tags/tags/list")
    assert (answer.status, answer.json["tags"]) == (200, [])


def test_pages_of_tags(stack: Stack, tagged: str) -> None:
    """
    Listing Tags: with n the response MUST have n results unless there are fewer or a Link; a Link MUST have the
    relation next; the pages that it leads to are the whole list, each in order.
    """
    url, found = f"/v2/{tagged}/tags/list?n=4", []
    while url:
        answer = ask(stack.gateway, url)
        found.append(answer.json["tags"])
        link = answer.headers.get("link", "")
        assert not link or link.endswith('>; rel="next"')
        url = link.partition(">")[0].removeprefix("<")
    assert [len(each) for each in found] == [4, 4, 4, 2]
    assert [tag for page in found for tag in page] == TAGS
    exactly = ask(stack.gateway, f"/v2/{tagged}/tags/list?n={len(TAGS)}")
    assert (exactly.json["tags"], "link" in exactly.headers) == (TAGS, False)


def test_no_tags(stack: Stack, tagged: str, namespace: str) -> None:
    """
    Listing Tags: when n is zero it MUST return an empty list, and MUST NOT include a Link.
    """
    answer = ask(stack.gateway, f"/v2/{tagged}/tags/list?n=0")
    assert (answer.status, answer.json["tags"], "link" in answer.headers) == (200, [], False)
    assert ask(stack.gateway, f"/v2/{namespace}/nothing/tags/list?n=0").status == 404


def test_tags_after_the_last(stack: Stack, tagged: str) -> None:
    """
    Listing Tags: last is the value of a tag, and the results begin after it, without it; n is OPTIONAL with it.
    """
    assert ask(stack.gateway, f"/v2/{tagged}/tags/list?n=2&last=staging").json["tags"] == ["v1", "v10"]
    assert ask(stack.gateway, f"/v2/{tagged}/tags/list?last=v7").json["tags"] == ["v8", "v9"]
    assert ask(stack.gateway, f"/v2/{tagged}/tags/list?last=zzz").json["tags"] == []


def test_referrers(stack: Stack, repository: str, manifest: Answer) -> None:
    """
    Listing Referrers: for a repository that is found it MUST return 200 OK and MUST NOT return 404; the body MUST be an
    image index with its Content-Type; without any referrers an empty list MUST be returned; a filter that was applied
    MUST be told in OCI-Filters-Applied.
    """
    for digest in (manifest.headers[DIGEST], NOTHING):
        answer = ask(stack.gateway, f"/v2/{repository}/referrers/{digest}")
        assert (answer.status, answer.headers["content-type"]) == (200, INDEX)
        assert answer.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        assert "oci-filters-applied" not in answer.headers
    filtered = ask(stack.gateway, f"/v2/{repository}/referrers/{NOTHING}?artifactType=application/x")
    assert filtered.headers["oci-filters-applied"] == "artifactType"


def test_referrers_of_what_is_no_digest(stack: Stack, repository: str, namespace: str) -> None:
    """
    Listing Referrers: a <digest> with an invalid syntax MUST be answered with 400.
    """
    for wrong in ("sha256:abc", "latest", f"sha256:{'G' * 64}", "sha256:"):
        answer = ask(stack.gateway, f"/v2/{repository}/referrers/{wrong}")
        assert (answer.status, code(answer)) == (400, "DIGEST_INVALID"), wrong
    assert ask(stack.gateway, f"/v2/{namespace}/nothing/referrers/{NOTHING}").status == 404


@pytest.mark.parametrize("rest", ["tags/list", "manifests/latest", f"manifests/{NOTHING}", f"blobs/{NOTHING}"])
def test_a_repository_that_is_not_there(stack: Stack, namespace: str, rest: str) -> None:
    """
    Error Codes: a repository that does not exist is NAME_UNKNOWN, with the form of an error.
    """
    for name in (f"{namespace}/nothing", "no-namespace-here/x", "a/b/c", "nothing-in-default"):
        answer = ask(stack.gateway, f"/v2/{name}/{rest}")
        assert (answer.status, code(answer)) == (404, "NAME_UNKNOWN"), name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "blobs/uploads/"),
        ("PUT", "manifests/latest"),
        ("DELETE", "manifests/latest"),
        ("DELETE", f"blobs/{NOTHING}"),
        ("PATCH", "blobs/uploads/1"),
    ],
)
def test_writes_are_not_supported(stack: Stack, repository: str, method: str, path: str) -> None:
    """
    Error Codes: what writes is UNSUPPORTED, with one sentence that says what to do.
    """
    answer = ask(stack.gateway, f"/v2/{repository}/{path}", method, b"" if method != "DELETE" else None)
    assert (answer.status, code(answer)) == (405, "UNSUPPORTED")
    assert "modelyard versions push" in answer.json["errors"][0]["message"]


def test_a_name_without_a_namespace(stack: Stack, yard: modelyard.Client, worker: str) -> None:
    """
    A name of one part is a model of the default namespace.
    """
    model = f"oci-{worker}"
    parent = f"namespaces/default/models/{model}"
    yard.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id=model))
    made = yard.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=parent))
    done = yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    assert ask(stack.gateway, f"/v2/{model}/manifests/latest").headers[DIGEST] == done.oci_digest


BAD = [
    "/v2/{r}/manifests/../../../../etc/passwd",
    "/v2/{r}/manifests/..%2F..%2Fetc%2Fpasswd",
    "/v2/{r}/blobs/../../../assets/" + "0" * 64,
    "/v2/..%2F..%2Fetc/manifests/latest",
    "/v2/a%2Fb/manifests/latest",
    "/v2/%2e%2e/%2e%2e/manifests/latest",
    "/v2//manifests/latest",
    "/v2/{r}/manifests/%00",
    "/v2/{r}/manifests/%ff",
    "/v2/{r}/manifests/" + "t" * 10_000,
    "/v2/" + "n" * 10_000 + "/manifests/latest",
    "/v2/" + "n/" * 100 + "x/manifests/latest",
    "/v2/{r}/manifests/sha256:abc",
    "/v2/{r}/manifests/sha256:" + "A" * 64,
    "/v2/{r}/manifests/md5:" + "0" * 32,
    "/v2/{r}/blobs/latest",
    "/v2/{r}/blobs/sha256:" + "0" * 63,
    "/v2/{r}/blobs/sha512:" + "0" * 10,
    "/v2/{r}/blobs/:",
    "/v2/{r}/tags/list?n=-1",
    "/v2/{r}/tags/list?n=1e9",
    "/v2/{r}/tags/list?n=" + "9" * 100,
    "/v2/{r}/tags/list?last=" + "l" * 5000,
    "/v2/{r}/referrers/x",
    "/v2/_catalog",
    "/v2/{r}",
    "/v2/{r}/nothing/of/this",
]


@pytest.mark.parametrize("path", BAD)
def test_bad_requests_get_an_answer(stack: Stack, repository: str, path: str) -> None:
    """
    Traversal, encoded separators, endless names and malformed digests get 400 or 404 in the form of the specification.
    """
    answer = ask(stack.gateway, path.format(r=repository))
    assert answer.status in {400, 404, 414, 431}
    # The gateway rejects some of them itself, without a body.
    if answer.body:
        assert code(answer) in {"NAME_INVALID", "NAME_UNKNOWN", "DIGEST_INVALID", "MANIFEST_UNKNOWN", "UNSUPPORTED"}
    assert b"root:" not in answer.body


def test_an_encoded_separator_is_none(stack: Stack, repository: str) -> None:
    """
    %2F in a name separates nothing: the name is malformed, even if it would be one of a model.
    """
    answer = ask(stack.gateway, f"/v2/{repository.replace('/', '%2F')}/manifests/latest")
    assert (answer.status, code(answer)) == (400, "NAME_INVALID")


def test_header_bombs(stack: Stack, repository: str) -> None:
    """
    Many and long Accept headers are read or rejected, and never a 5xx.
    """
    path = f"/v2/{repository}/manifests/latest"
    with closing(http.client.HTTPConnection(stack.gateway, timeout=30)) as connection:
        connection.putrequest("GET", path)
        for _ in range(50):
            connection.putheader("accept", "application/x")
        connection.putheader("accept", MANIFEST)
        connection.endheaders()
        assert connection.getresponse().status == 200
    assert ask(stack.gateway, path, accept=",".join(["a/b"] * 10_000)).status in {404, 431}


class Closed:
    """
    A suite with access control, where "ann" has a model in a private namespace, and everybody else has the other one.
    """

    def __init__(self, stack: Stack, key: str) -> None:
        self.stack = stack
        self.private, self.opened = f"oci-{key}-private", f"oci-{key}-open"

    def token(self, subject: str, *scopes: str) -> str:
        scopes = scopes or ("registry.read", "registry.write", "assets.read", "assets.write")
        return mint(self.stack.settings.state / "access" / "key.pem", subject, scopes, 600.0)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **more: Any) -> Answer:
        return ask(self.stack.gateway, path, method, body, **more)


CONTENT = b"closed"


def closed_suite(run_servers: Servers, access: str, key: str) -> Closed:
    """
    The run's suite with this access control, and models in two namespaces of the caller's own.

    Args:
        key: distinguishes the callers of a run.
    """
    settings = StackSettings(state=Path(), gateway_port=0, access=access)
    found = Closed(run_servers.stack(f"access {access}", settings), key)
    with modelyard.connect(found.stack.gateway, found.token("ann")) as ann:
        digest = store(ann, CONTENT)
        for namespace in (found.private, found.opened):
            name = f"namespaces/{namespace}"
            ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=namespace))
            ann.models.CreateModel(models_pb2.CreateModelRequest(parent=name, model_id="m"))
            files = [versions_pb2.Artifact(path="f", sha256=digest, size_bytes=len(CONTENT))]
            draft = versions_pb2.Version(artifacts=files)
            made = ann.versions.CreateVersion(
                versions_pb2.CreateVersionRequest(parent=f"{name}/models/m", version=draft)
            )
            ann.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    with modelyard.connect(found.stack.gateway, found.token("root", "admin")) as root:
        owner = policies_pb2.Policy.Binding(role=policies_pb2.Policy.ROLE_OWNER, members=["user:ann"])
        policy = policies_pb2.Policy(name=f"namespaces/{found.private}/policy", bindings=[owner], private=True)
        root.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    return found


@pytest.fixture(scope="module")
def closed(run_servers: Servers, worker: str) -> Closed:
    return closed_suite(run_servers, "on", worker)


@pytest.fixture(scope="module")
def public(run_servers: Servers, worker: str) -> Closed:
    return closed_suite(run_servers, "read-public", worker)


def _basic(password: str) -> str:
    return "Basic " + b64encode(f"anything:{password}".encode()).decode()


def test_a_login(closed: Closed) -> None:
    """
    Who has no token is told where to get one; that is given the token as password, returns it, and takes it.
    """
    refused = closed.ask(f"/v2/{closed.private}/m/manifests/latest")
    assert (refused.status, code(refused)) == (401, "UNAUTHORIZED")
    gateway = closed.stack.gateway
    assert refused.headers["www-authenticate"] == (
        f'Bearer realm="http://{gateway}/v2/token",service="{gateway}",scope="repository:{closed.private}/m:pull"'
    )
    query = urlencode({"service": gateway, "scope": f"repository:{closed.private}/m:pull"})
    mine = closed.token("ann")
    answer = closed.ask(f"/v2/token?{query}", authorization=_basic(mine))
    assert (answer.json["token"], answer.json["access_token"]) == (mine, mine)
    assert 500 < answer.json["expires_in"] <= 600
    assert answer.headers["cache-control"] == "no-store"
    assert closed.ask(f"/v2/{closed.private}/m/manifests/latest", token=answer.json["token"]).status == 200


@pytest.mark.parametrize("grant", ["password", "refresh_token"])
def test_a_login_by_form(closed: Closed, grant: str) -> None:
    """
    The OAuth2 form takes the token as password and as refresh token, and nothing else.
    """
    mine = closed.token("ann")
    form = urlencode({"grant_type": grant, "username": "x", grant: mine, "service": "s", "client_id": "c"})
    answer = closed.ask("/v2/token", "POST", form.encode(), content_type="application/x-www-form-urlencoded")
    assert (answer.status, answer.json["access_token"], answer.json["refresh_token"]) == (200, mine, mine)
    other = urlencode({"grant_type": "client_credentials"}).encode()
    assert closed.ask("/v2/token", "POST", other).status == 400
    assert closed.ask("/v2/token", "POST", b"grant_type=password").status == 401
    assert closed.ask("/v2/token", "POST", b"x" * (1 << 17)).status == 413


def test_a_wrong_password(closed: Closed) -> None:
    """
    A password that is no token is rejected when somebody logs in, and as a token.
    """
    for answer in (
        closed.ask("/v2/token", authorization=_basic("wrong")),
        closed.ask("/v2/", token="wrong"),
        closed.ask(f"/v2/{closed.opened}/m/manifests/latest", token="wrong"),
        closed.ask("/v2/", authorization="Basic %%%"),
        closed.ask("/v2/", authorization="Digest x"),
    ):
        assert (answer.status, code(answer)) == (401, "UNAUTHORIZED")
        assert "www-authenticate" in answer.headers


def test_the_version_needs_a_login(closed: Closed, public: Closed) -> None:
    """
    GET /v2/ answers 401 to who has no token, also where reading is public: clients decide by it whether they send one.
    """
    for suite in (closed, public):
        answer = suite.ask("/v2/")
        assert (answer.status, answer.headers["www-authenticate"].partition(" ")[0]) == (401, "Bearer")
        assert suite.ask("/v2/", token=suite.token("ann")).status == 200


@pytest.mark.parametrize("rest", ["tags/list", "manifests/latest", f"blobs/{sha256(CONTENT)}", f"referrers/{NOTHING}"])
def test_a_private_repository_is_hidden(closed: Closed, rest: str) -> None:
    """
    For a stranger a private repository is one that does not exist, letter by letter; without a token both are 401.
    """
    stranger = closed.token("stranger")
    hidden = closed.ask(f"/v2/{closed.private}/m/{rest}", token=stranger)
    missing = closed.ask(f"/v2/oci-missing/m/{rest}", token=stranger)
    assert (hidden.status, code(hidden)) == (404, "NAME_UNKNOWN")
    assert hidden.body.replace(closed.private.encode(), b"oci-missing") == missing.body
    for name in (closed.private, "oci-missing"):
        assert closed.ask(f"/v2/{name}/m/{rest}").status == 401
    assert closed.ask(f"/v2/{closed.private}/m/{rest}", token=closed.token("ann")).status in {200, 307}
    assert closed.ask(f"/v2/{closed.opened}/m/{rest}", token=stranger).status in {200, 307}


def test_a_token_has_to_have_the_scope(closed: Closed) -> None:
    """
    A token without the scope registry.read is DENIED.
    """
    answer = closed.ask(f"/v2/{closed.opened}/m/manifests/latest", token=closed.token("ann", "assets.read"))
    assert (answer.status, code(answer)) == (403, "DENIED")


def test_anybody_reads_what_is_public(public: Closed) -> None:
    """
    Where reading is public, who logs in without credentials gets a token for nobody, with which public repositories
    can be pulled to the last byte, and private ones do not exist.
    """
    nobody = public.ask("/v2/token").json["token"]
    assert nobody
    assert public.ask("/v2/", token=nobody).status == 200
    for token in (nobody, ""):
        answer = public.ask(f"/v2/{public.opened}/m/manifests/latest", token=token)
        assert answer.status == 200
        blob = public.ask(f"/v2/{public.opened}/m/blobs/{answer.json['layers'][0]['digest']}", token=token)
        assert blob.status == 307
        location = blob.headers["location"].removeprefix(f"http://{public.stack.gateway}")
        assert public.ask(location, token=token).body == CONTENT
    assert public.ask(f"/v2/{public.private}/m/manifests/latest", token=nobody).status == 404
    assert public.ask(f"/v2/{public.private}/m/manifests/latest").status == 401


def test_the_bytes_need_the_token_as_well(closed: Closed) -> None:
    """
    The redirect of a blob leads to bytes that the same token opens, and none without it.
    """
    mine = closed.token("ann")
    blob = closed.ask(f"/v2/{closed.private}/m/blobs/{sha256(CONTENT)}", token=mine)
    location = blob.headers["location"].removeprefix(f"http://{closed.stack.gateway}")
    assert closed.ask(location, token=mine).body == CONTENT
    assert closed.ask(location).status == 401


def test_the_digest_is_the_one_of_the_registry(stack: Stack, yard: modelyard.Client, repository: str) -> None:
    """
    The digest that clients of OCI see is the one that the registry shows for the version.
    """
    name = f"namespaces/{repository.replace('/', '/models/')}/versions/1"
    version = yard.versions.GetVersion(versions_pb2.GetVersionRequest(name=name))
    answer = ask(stack.gateway, f"/v2/{repository}/manifests/v1", "HEAD")
    assert answer.headers[DIGEST] == version.oci_digest
    shown = json.loads(ask(stack.gateway, f"/v1/{name}").body)
    assert shown["ociDigest"] == version.oci_digest
