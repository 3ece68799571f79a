"""
Who gets bytes, end to end: through the gateway's paths, the cache, and by naming a digest in a version.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.cdn.v1 import assets_pb2, delivery_pb2
from modelyard.registry.v1 import models_pb2, namespaces_pb2, policies_pb2, tokens_pb2, versions_pb2
from modelyard.tokens import mint

SCOPES = ("registry.read", "registry.write", "assets.read", "assets.write", "static.write", "assets.sign")
PATIENCE = 10.0
_PASSING = {"x-request-id", "date"}


@dataclass(frozen=True)
class House:
    """
    A suite with access control, where the namespace `bytes` is ann's and private.

    Args:
        data: of an asset that a version of it contains.
        static: the path of a static file of it.
    """

    stack: Stack
    data: bytes
    static: str

    @property
    def name(self) -> str:
        """
        The name of the asset.
        """
        return f"assets/{hashlib.sha256(self.data).hexdigest()}"

    def client(self, subject: str, *scopes: str) -> modelyard.Client:
        """
        A client through the gateway.
        """
        return modelyard.connect(self.stack.gateway, token(self.stack, subject, *scopes))

    def get(self, path: str, subject: str, *scopes: str, **headers: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """
        A GET at the gateway: status, headers and body.
        """
        connection = http.client.HTTPConnection(self.stack.gateway, timeout=20)
        try:
            sent = {"authorization": f"Bearer {token(self.stack, subject, *scopes)}", **headers}
            connection.request("GET", path, headers=sent)
            found = connection.getresponse()
            told = sorted((key, value) for key, value in found.getheaders() if key not in _PASSING)
            return found.status, told, found.read()
        finally:
            connection.close()


def token(stack: Stack, subject: str, *scopes: str) -> str:
    """
    A token of *subject*, with the usual scopes unless others are given.
    """
    return mint(stack.settings.state / "access" / "key.pem", subject, scopes or SCOPES, 600.0)


@pytest.fixture(scope="module")
def house(run_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """
    The suite, with a version of ann's and a static file.
    """
    stack = run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on"))
    found = House(stack, os.urandom(3000), f"/static/bytes/{os.urandom(4).hex()}")
    file = tmp_path_factory.mktemp("bytes") / "file"
    file.write_bytes(found.data)
    with found.client("ann") as ann:
        ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="bytes"))
        members(found, "user:ann")
        ann.upload_file(file)
        finalize(ann, "namespaces/bytes", found.data)
        put = delivery_pb2.StaticFile(name=found.static.removeprefix("/"), asset=found.name)
        eventually(lambda: ann.delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=put)))
    yield found
    # The suite is shared: its other callers see everything again.
    members(found, "user:ann", private=False)


def members(house: House, readers: str, *, private: bool = True) -> None:
    """
    Set the policy of the namespace: ann owns it, and *readers* read it.
    """
    role = policies_pb2.Policy.Binding
    bindings = [
        role(role=policies_pb2.Policy.ROLE_OWNER, members=["user:ann"]),
        role(role=policies_pb2.Policy.ROLE_READER, members=readers.split()),
    ]
    policy = policies_pb2.Policy(name="namespaces/bytes/policy", bindings=bindings, private=private)
    with house.client("root", "admin") as root:
        root.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))


def finalize(client: modelyard.Client, namespace: str, data: bytes) -> versions_pb2.Version:
    """
    A new model with one version of one file, finalized.
    """
    model = models_pb2.Model(task="t", framework="f")
    request = models_pb2.CreateModelRequest(parent=namespace, model_id=f"m{os.urandom(4).hex()}", model=model)
    parent = client.models.CreateModel(request).name
    sha256 = hashlib.sha256(data).hexdigest()
    version = versions_pb2.Version(
        artifacts=[versions_pb2.Artifact(path="weights", sha256=sha256, size_bytes=len(data))]
    )
    made = client.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=parent, version=version))
    return client.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))


def eventually(condition: Callable[[], object]) -> None:
    """
    Wait until a condition holds, and calls of it are no errors.
    """
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except grpc.RpcError:
            if time.monotonic() > ends:
                raise
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.parametrize("subject", ["mallory", "nobody-else"])
def test_paths_of_the_gateway(house: House, subject: str) -> None:
    """
    /assets/ and /static/ answer strangers about what they may not see as about what is not there, also with conditions,
    ranges and encodings; who may read the namespace gets the bytes, which no shared cache keeps.
    """
    eventually(lambda: house.get(house.static, "ann")[0] == 200)
    none = (f"/assets/{os.urandom(32).hex()}", "/static/bytes/none")
    more = [{}, {"range": "bytes=1-2"}, {"if-none-match": "{}"}, {"if-match": "{}"}, {"if-none-match": "*"}]
    for path, absent in zip((f"/{house.name}", house.static), none, strict=True):
        for headers in more:
            answers = []
            for each in (path, absent):
                tag = f'"{each.rpartition("/")[2]}"'
                answers.append(house.get(each, subject, **{key: value.format(tag) for key, value in headers.items()}))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        status, told, body = house.get(path, "ann")
        assert (status, body) == (200, house.data)
        assert "private" in dict(told)["cache-control"]
    assert house.get(f"/{house.name}", subject, "assets.read", "admin")[2] == house.data


def test_api_tokens(house: House) -> None:
    """
    /assets/ and /static/ answer an API token of the namespace with the bytes, which no shared cache keeps, and one of
    another namespace as if nothing were there.
    """
    eventually(lambda: house.get(house.static, "ann")[0] == 200)
    other = f"other{os.urandom(3).hex()}"
    secrets = {}
    with house.client("ann") as ann:
        ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=other))
        for namespace in ("bytes", other):
            token = tokens_pb2.ApiToken(role=policies_pb2.Policy.ROLE_READER)
            token.expire_time.FromSeconds(int(time.time()) + 600)
            request = tokens_pb2.CreateApiTokenRequest(parent=f"namespaces/{namespace}", api_token=token)
            secrets[namespace] = ann.api_tokens.CreateApiToken(request).secret
    for path in (f"/{house.name}", house.static):
        status, told, body = house.get(path, "", authorization=f"Bearer {secrets['bytes']}")
        assert (status, body) == (200, house.data)
        assert "private" in dict(told)["cache-control"]
        assert house.get(path, "", authorization=f"bearer {secrets[other]}")[0] == 404


def test_queries_and_encoded_paths(house: House) -> None:
    """
    What is decided about is what is fetched: queries and percent-encoding get nobody past the decision.
    """
    eventually(lambda: house.get(house.static, "ann")[0] == 200)
    encoded = house.static.replace("bytes", "%62ytes")
    for path in (f"/{house.name}?download=x", f"{house.static}?x=1", encoded):
        assert (house.get(path, "mallory")[0], house.get(path, "ann")[0]) == (404, 200)


def test_a_digest_in_a_version_is_no_way_in(house: House) -> None:
    """
    Whoever names an asset in a version that it may not read cannot finalize it, as if the asset were not there: not
    even its size is told. Who may read it can.
    """
    with house.client("mallory") as mallory:
        namespace = mallory.namespaces.CreateNamespace(
            namespaces_pb2.CreateNamespaceRequest(namespace_id=f"mallory{os.urandom(3).hex()}")
        ).name
        for data in (house.data, house.data[:-1]):
            with pytest.raises(grpc.RpcError) as refused:
                finalize(mallory, namespace, data)
            assert modelyard.explain(refused.value).reason == "ASSET_MISSING"
        assert house.get(f"/{house.name}", "mallory")[0] == 404
    with house.client("ann") as ann:
        assert finalize(ann, "namespaces/bytes", house.data).state == versions_pb2.Version.STATE_READY


def test_presigned_urls(house: House) -> None:
    """
    A presigned URL is for whoever has it; only who may see the asset can get one.
    """
    with house.client("mallory") as mallory, pytest.raises(grpc.RpcError) as refused:
        mallory.delivery.SignUrl(delivery_pb2.SignUrlRequest(asset=house.name))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    with house.client("ann") as ann:
        url = ann.delivery.SignUrl(delivery_pb2.SignUrlRequest(asset=house.name)).url
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{path}")
    assert connection.getresponse().read() == house.data
    connection.close()


def test_cached_answers(house: House) -> None:
    """
    An answer that the cache keeps for callers who see everything reaches nobody else, before or after.
    """
    request = assets_pb2.GetAssetRequest(name=house.name)

    def how(client: modelyard.Client) -> str:
        answer, call = client.assets.GetAsset.with_call(request)
        assert answer.name == house.name
        found: Any = dict(call.trailing_metadata())
        return str(found.get("x-cache"))

    with house.client("mallory") as mallory, house.client("ann") as ann, house.client("root", *SCOPES, "admin") as root:
        for _ in range(3):
            eventually(lambda: how(root) in {"near", "shared"})
            with pytest.raises(grpc.RpcError) as refused:
                mallory.assets.GetAsset(request)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert how(ann) in {"near", "shared", "bypass"}


def test_revocation(house: House) -> None:
    """
    Who is bound to the namespace gets the bytes, by every way, and nothing once it is not any more.
    """
    request = assets_pb2.DownloadRequest(name=house.name)

    def downloads(client: modelyard.Client) -> bool:
        try:
            return b"".join(message.chunk.data for message in client.assets.Download(request)) == house.data
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise

    paths = (f"/{house.name}", house.static)
    with house.client("ben") as ben:
        members(house, "user:ben")
        eventually(lambda: downloads(ben) and all(house.get(path, "ben")[0] == 200 for path in paths))
        members(house, "user:ann")
        eventually(lambda: not downloads(ben) and all(house.get(path, "ben")[0] == 404 for path in paths))
