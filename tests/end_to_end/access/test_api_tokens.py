"""
API tokens through the gateway, in the registry, the cache and the asset service.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import StackSettings
from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2, namespaces_pb2, policies_pb2, tokens_pb2
from services.chassis.access.api_tokens import FORM, make
from tests.end_to_end.access.test_policies import Team, told, until

ALL = ("registry.read", "registry.write", "assets.read", "assets.write")
GET = models_pb2.GetModelRequest(name="namespaces/machines/models/m")
BYTES = b"bytes of an API token"
#: What a token that is not accepted gets, by the names of `asks`.
REFUSED: dict[str, Any] = {
    **dict.fromkeys(("registry", "cache", "assets"), (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")),
    "json": (401, "TOKEN_INVALID"),
    "bytes": (401, 16),
}


@pytest.fixture(scope="module")
def team(run_servers: Servers) -> Iterator[Team]:
    """
    The suite, with a private namespace of "ann" that has a model.
    """
    found = Team(run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on")))
    with found.client("ann") as ann:
        ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="machines"))
        ann.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/machines", model_id="m"))
    found.set_policy("namespaces/machines/policy", private=True, owner="user:ann")
    yield found
    found.set_policy("namespaces/machines/policy", owner="user:ann")


def create(team: Team, role: str = "WRITER", *scopes: str) -> tokens_pb2.CreateApiTokenResponse:
    """
    A token of the namespace, with all scopes of its role unless some are given.
    """
    token = tokens_pb2.ApiToken(role=policies_pb2.Policy.Role.Value(f"ROLE_{role}"), scopes=scopes)
    token.expire_time.FromSeconds(int(time.time()) + 3600)
    with team.client("ann", *ALL) as ann:
        request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/machines", api_token=token)
        return ann.api_tokens.CreateApiToken(request)


def revoke(team: Team, name: str) -> None:
    """
    Revoke a token.
    """
    with team.client("ann") as ann:
        ann.api_tokens.RevokeApiToken(tokens_pb2.RevokeApiTokenRequest(name=name))


def asks(team: Team, client: modelyard.Client, secret: str) -> dict[str, Callable[[], Any]]:
    """
    What a reader may do, by which service verifies the token; each returns "OK", or the code and the reason.
    """

    def call(method: Any, request: Any) -> Any:
        try:
            method(request)
        except grpc.RpcError as error:
            problem = modelyard.explain(error)
            return problem.code, problem.reason
        return "OK"

    def as_json() -> Any:
        status, body = get(team, "/v1/namespaces/machines/models/m", secret)
        return "OK" if status == 200 else (status, json.loads(body)["details"][0]["reason"])

    def as_bytes() -> Any:
        status, body = get(team, f"/{asset.name}", secret)
        return "OK" if body == BYTES else (status, json.loads(body)["code"])

    watch = policies_pb2.TestPermissionsRequest(resource="namespaces/machines")
    asset = assets_pb2.GetAssetRequest(name=f"assets/{hashlib.sha256(BYTES).hexdigest()}")
    return {
        "registry": lambda: call(client.policies.TestPermissions, watch),
        "cache": lambda: call(client.models.GetModel, GET),
        "json": as_json,
        "assets": lambda: call(client.assets.GetAsset, asset),
        "bytes": as_bytes,
    }


def get(team: Team, path: str, secret: str) -> tuple[int, bytes]:
    """
    A GET at the gateway: status and body.
    """
    connection = http.client.HTTPConnection(team.stack.gateway, timeout=10)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {secret}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_one_token_everywhere(team: Team, tmp_path: Path) -> None:
    """
    The registry, the cache (from its memory) and the asset service accept a token that was created a moment ago, as
    gRPC and as JSON, and so do paths of bytes; after its revocation each refuses it, soon and for good.
    """
    made = create(team)
    with modelyard.connect(team.stack.gateway, made.secret) as client:
        file = tmp_path / "file"
        file.write_bytes(BYTES)
        client.upload_file(file)
        found = asks(team, client, made.secret)
        assert {name: ask() for name, ask in found.items()} == dict.fromkeys(found, "OK")
        until(lambda: told(client, "GetModel", GET)[1].get("x-cache") == "near")
        revoke(team, made.api_token.name)
        for name, ask in found.items():
            until(lambda ask=ask, name=name: ask() == REFUSED[name])  # type: ignore[misc]
            assert {ask() for _ in range(3)} == {REFUSED[name]}, name


def test_a_reader_writes_nowhere(team: Team, tmp_path: Path) -> None:
    """
    A reader's token reads its private namespace through the cache, and can write neither models nor bytes.
    """
    made, file = create(team, "READER"), tmp_path / "file"
    file.write_bytes(b"other bytes")
    with modelyard.connect(team.stack.gateway, made.secret) as client:
        assert client.models.GetModel(GET).name == GET.name
        with pytest.raises(grpc.RpcError) as failed:
            client.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/machines", model_id="n"))
        assert modelyard.explain(failed.value).reason == "SCOPE_MISSING"
        with pytest.raises(grpc.RpcError) as failed:
            client.upload_file(file)
        assert modelyard.explain(failed.value).reason == "SCOPE_MISSING"


def test_what_nobody_created(team: Team) -> None:
    """
    A token of the right form that never existed is refused by each service.
    """
    _, secret = make()
    with modelyard.connect(team.stack.gateway, secret) as client:
        for name, ask in asks(team, client, secret).items():
            assert ask() == REFUSED[name], name


def test_a_token_without_the_scope(team: Team) -> None:
    """
    Paths of bytes deny a token that was created without the scope `assets.read`.
    """
    secret = create(team, "READER", "registry.read").secret
    for path in (f"/assets/{64 * '0'}", "/static/machines/none"):
        status, body = get(team, path, secret)
        assert (status, json.loads(body)["code"]) == (403, 7)


def test_the_last_use_comes_from_every_service(team: Team) -> None:
    """
    A token that only the cache or only the asset service has seen shows its last use.
    """
    asset = assets_pb2.GetAssetRequest(name=f"assets/{hashlib.sha256(b'none').hexdigest()}")
    with team.client("ann") as ann:
        # So that the cache answers by itself.
        until(lambda: told(ann, "GetModel", GET)[1].get("x-cache") == "near")
        for method, request in (("GetModel", GET), ("GetAsset", asset)):
            made = create(team)
            with modelyard.connect(team.stack.gateway, made.secret) as client:
                told(client, method, request)
            name = tokens_pb2.GetApiTokenRequest(name=made.api_token.name)
            until(lambda name=name: ann.api_tokens.GetApiToken(name).HasField("last_use_time"))  # type: ignore[misc]


def test_the_command_line(team: Team, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    `modelyard tokens create` prints the secret and nothing else on stdout, which works as a token file; `list` shows
    the token, and `revoke` ends it.
    """
    ann = tmp_path / "ann"
    ann.write_text(team.token("ann", *ALL))
    usual = ["--target", team.stack.gateway, "--token-file", str(ann)]
    wanted = ["--namespace", "machines", "--role", "writer", "--expires", "90d", "--name", "ci"]
    assert main(["tokens", "create", *wanted, *usual]) == 0
    out, err = capsys.readouterr()
    assert FORM.fullmatch(out.removesuffix("\n"))
    assert out.strip() not in err
    secret = tmp_path / "secret"
    secret.write_text(out)
    own = ["--target", team.stack.gateway, "--token-file", str(secret)]
    assert main(["models", "get", "machines/m", *own]) == 0
    assert main(["tokens", "list", "machines", *usual]) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if out[3:13] in line)
    assert shown.split()[1:4] == ["ci", "writer", "active"]
    assert main(["tokens", "revoke", "--namespace", "machines", out[3:13], *usual]) == 0
    until(lambda: main(["models", "get", "machines/m", *own]) != 0)
