"""
Every RPC of the contracts with every kind of token, through the gateway and at the service's own port.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

import modelyard
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from gateway.openapi.bindings import Binding, bindings
from modelyard.cdn.v1 import assets_pb2
from modelyard.contracts import is_internal, scopes, services
from modelyard.registry.v1 import audit_pb2, models_pb2, versions_pb2
from tests.tokens import Issuer, settings

pytestmark = pytest.mark.own_suite
METHODS = [method for service in services() for method in service.methods]
#: What asks for nothing in particular, so that an empty request is a good one. All others miss a name.
GOOD_WHEN_EMPTY = {
    "/modelyard.cache.v1.CacheAdminService/Flush",
    "/modelyard.cache.v1.CacheAdminService/GetStatus",
    "/modelyard.cache.v1.CacheAdminService/Warm",
    "/modelyard.cdn.v1.AssetService/CollectGarbage",
    "/modelyard.cdn.v1.AssetService/GetStorageTotals",
    "/modelyard.cdn.v1.AssetService/ListAssets",
    "/modelyard.cdn.v1.ChangeService/WatchChanges",
    "/modelyard.registry.v1.AuditService/ListAuditEntries",
    "/modelyard.registry.v1.ChangeService/WatchChanges",
    "/modelyard.registry.v1.NamespaceService/ListNamespaces",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Stack, Issuer]]:
    """
    The suite with access control on, and who issues its tokens.
    """
    with scratch() as state:
        issuer, own = Issuer(state / "jwks.json"), state / "service-token"
        own.write_text(issuer.mint("registry.read registry.follow assets.read assets.pin", sub="service"))
        environment = {**settings(issuer), "MODELYARD_SERVICE_TOKEN_FILE": str(own)}
        with Stack(StackSettings(state=state, gateway_port=0, environment=environment)) as running:
            yield running, issuer
            running.kill("s3")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """
    Another issuer with the same name of its key, so that only the signature differs.
    """
    return Issuer(tmp_path_factory.mktemp("stranger") / "jwks.json")


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def code(channel: grpc.Channel, method: MethodDescriptor, token: str | None) -> grpc.StatusCode:
    """
    The status of an empty request. A stream that does not end counts as OK and is cancelled.
    """
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call = getattr(channel, "_".join(kind))(path_of(method))
    sent = iter([b""]) if method.client_streaming else b""
    try:
        answer = call(sent, metadata=metadata, timeout=10)
        if method.server_streaming:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_every_rpc_asks_for_a_scope() -> None:
    """
    A contract without a scope would be denied to everybody: none may be forgotten.
    """
    assert {path_of(method) for method in METHODS} == set(scopes())


def expected(
    issuer: Issuer, stranger: Issuer, path: str, *, closed: bool = False
) -> dict[str, tuple[str | None, grpc.StatusCode]]:
    """
    Each kind of token with the code that it has to get.

    Args:
        closed: nobody gets through, whatever scopes they have.
    """
    table = scopes()
    scope, others = table[path], " ".join(sorted(set(table.values()) - {table[path]}))
    nobody, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    served = grpc.StatusCode.OK if path in GOOD_WHEN_EMPTY else grpc.StatusCode.INVALID_ARGUMENT
    return {
        "no token": (None, nobody),
        "expired": (issuer.mint(scope, exp=int(time.time()) - 60), nobody),
        "wrong audience": (issuer.mint(scope, aud="another"), nobody),
        "wrong issuer": (issuer.mint(scope, iss="https://another.example"), nobody),
        "wrong key": (stranger.mint(scope), nobody),
        "wrong scope": (issuer.mint(others), denied),
        "right scope": (issuer.mint(scope), denied if closed else served),
    }


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_the_matrix(guarded: tuple[Stack, Issuer], stranger: Issuer, way: str) -> None:
    """
    Without a token, or with one that is not good: UNAUTHENTICATED. With all scopes but the right one:
    PERMISSION_DENIED. With the right scope alone, an empty request is judged: INVALID_ARGUMENT, or OK where it asks for
    nothing in particular; what services call among themselves is denied to everybody at the gateway.
    """
    stack, issuer = guarded
    with ExitStack() as stacked, ThreadPoolExecutor(8) as threads:
        first = {package: service.addresses[0] for package, service in stack.services.items()}
        targets = {package: f"{host}:{port}" for package, (host, port) in first.items()}
        if way == "gateway":
            targets = dict.fromkeys(targets, stack.gateway)
        channels = {each: stacked.enter_context(grpc.insecure_channel(each)) for each in set(targets.values())}
        cells = []
        for method in METHODS:
            channel = channels[targets[method.containing_service.file.package.split(".")[1]]]
            closed = way == "gateway" and is_internal(method)
            for what, (token, wanted) in expected(issuer, stranger, path_of(method), closed=closed).items():
                cells.append((f"{path_of(method)}, {what}", wanted, threads.submit(code, channel, method, token)))
        ended = [(cell, wanted, call.result()) for cell, wanted, call in cells]
    assert len(ended) == 7 * len(METHODS)
    wrong = [f"{cell}: {found}" for cell, wanted, found in ended if found is not wanted]
    assert not wrong, "\n".join(wrong)


def test_the_matrix_as_json(guarded: tuple[Stack, Issuer], stranger: Issuer) -> None:
    """
    The same for every JSON path: 401, 403, and for the right scope neither, with google.rpc.Status in each body.
    """
    stack, issuer = guarded
    status = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}
    wrong: list[str] = []
    connection = http.client.HTTPConnection(stack.gateway, timeout=30)
    for method in METHODS:
        # A stream that goes on has no end, and what streams in is no JSON.
        for binding in [] if method.server_streaming or method.client_streaming else bindings(method):
            for what, (token, wanted) in expected(issuer, stranger, path_of(method)).items():
                headers = {"content-type": "application/json"}
                headers |= {} if token is None else {"authorization": f"Bearer {token}"}
                connection.request(binding.verb.upper(), example(binding), "{}" if binding.body else None, headers)
                answer = connection.getresponse()
                body = answer.read()
                if wanted in status:
                    fits = answer.status == status[wanted] and json.loads(body)["details"]
                else:
                    fits = answer.status in (200, 400, 404) and b"no such path" not in body
                if not fits:
                    wrong.append(f"{binding.verb} {example(binding)}, {what}: {answer.status} {body[:80]!r}")
    connection.close()
    assert not wrong, "\n".join(wrong)


def example(binding: Binding) -> str:
    """
    A path of that form, of things that are not there.
    """
    values = {segment.name: "1" if segment.name == "version" else "none" for segment in binding.segments}
    return binding.path.format_map(values)


def test_the_gateway_refuses_by_itself(guarded: tuple[Stack, Issuer]) -> None:
    """
    What it refuses reaches no service: their counters of calls stand still.
    """
    stack, issuer = guarded
    method = next(each for each in METHODS if each.name == "GetModel")
    before = calls(stack, "GetModel")
    with grpc.insecure_channel(stack.gateway) as channel:
        for token, wanted in (
            (None, grpc.StatusCode.UNAUTHENTICATED),
            (issuer.mint("assets.read"), grpc.StatusCode.PERMISSION_DENIED),
        ):
            assert code(channel, method, token) is wanted
        assert calls(stack, "GetModel") == before
        assert code(channel, method, issuer.mint("registry.read")) is grpc.StatusCode.INVALID_ARGUMENT
    assert calls(stack, "GetModel") > before


def calls(stack: Stack, method: str) -> float:
    """
    How many calls of a method the cache and the registry have begun.
    """
    found = 0.0
    for service in (stack.services["cache"], stack.services["registry"]):
        with urllib.request.urlopen(service.metrics[0], timeout=10) as page:  # noqa: S310 - our own, on loopback
            for line in page.read().decode().splitlines():
                if line.startswith("grpc_server_started_total") and f'grpc_method="{method}"' in line:
                    found += float(line.rpartition(" ")[2])
    return found


def test_nobody_takes_a_versions_bytes(guarded: tuple[Stack, Issuer], tmp_path: Path) -> None:
    """
    The bytes of a READY version cannot be taken away through the gateway: an uploader may neither unpin nor delete
    them, in whatever form the call comes, an administrator may not unpin them and is told who pins them, and they can
    still be downloaded.
    """
    stack, issuer = guarded
    file, back = tmp_path / "weights", tmp_path / "back"
    file.write_bytes(b"weights that others rely on")
    model = "namespaces/default/models/relied-on"
    with modelyard.connect(stack.gateway, issuer.mint("assets.write assets.read registry.write")) as ann:
        asset = ann.upload_file(file)
        parent, _, model_id = model.rpartition("/models/")
        made = models_pb2.CreateModelRequest(parent=parent, model_id=model_id, model=models_pb2.Model(owner="ann"))
        ann.models.CreateModel(made)
        artifact = versions_pb2.Artifact(path="weights", sha256=asset.sha256, size_bytes=asset.size_bytes)
        draft = versions_pb2.CreateVersionRequest(parent=model, version=versions_pb2.Version(artifacts=[artifact]))
        version = ann.versions.CreateVersion(draft).name
        ready = ann.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version))
        assert ready.state == versions_pb2.Version.STATE_READY
    denied = grpc.StatusCode.PERMISSION_DENIED
    everything = " ".join(sorted(set(scopes().values())))
    for scope in ("assets.write", everything):
        with modelyard.connect(stack.gateway, issuer.mint(scope, sub="mallory")) as mallory:
            with pytest.raises(grpc.RpcError) as refused:
                mallory.assets.Unpin(assets_pb2.UnpinRequest(owner=version))
            assert refused.value.code() is denied
            with pytest.raises(grpc.RpcError) as refused:
                mallory.assets.Pin(assets_pb2.PinRequest(owner=version, names=[asset.name]))
            assert refused.value.code() is denied
            with pytest.raises(grpc.RpcError) as refused:
                mallory.assets.DeleteAsset(assets_pb2.DeleteAssetRequest(name=asset.name))
            assert refused.value.code() is (denied if scope == "assets.write" else grpc.StatusCode.FAILED_PRECONDITION)
        assert _as_json(stack, issuer, scope, "POST", "/v1/assets:unpin", {"owner": version}) == 404
        assert _as_json(stack, issuer, scope, "POST", "/v1/assets:pin", {"owner": version}) == 404
    assert _as_json(stack, issuer, "assets.write", "DELETE", f"/v1/{asset.name}") == 403
    with modelyard.connect(stack.gateway, issuer.mint("assets.read")) as ben:
        ben.download_file(asset.name, back)
    assert back.read_bytes() == file.read_bytes()


def _as_json(stack: Stack, issuer: Issuer, scope: str, verb: str, path: str, body: object = None) -> int:
    connection = http.client.HTTPConnection(stack.gateway, timeout=30)
    headers = {"authorization": f"Bearer {issuer.mint(scope, sub='mallory')}", "content-type": "application/json"}
    connection.request(verb, path, None if body is None else json.dumps(body), headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_private_bytes_need_the_scope_to_be_read(guarded: tuple[Stack, Issuer], tmp_path: Path) -> None:
    """
    A private asset is downloaded with assets.read and with no other scope, and is at no address of the gateway.
    """
    stack, issuer = guarded
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(b"not for everybody")
    with modelyard.connect(stack.gateway, issuer.mint("assets.write assets.read")) as ann:
        asset = ann.upload_file(file, private=True)
        ann.download_file(asset.name, back)
        assert back.read_bytes() == b"not for everybody"
    digest = asset.name.rpartition("/")[2]
    with modelyard.connect(stack.gateway, issuer.mint("registry.read assets.write assets.sign")) as ben:
        with pytest.raises(grpc.RpcError) as refused:
            list(ben.assets.Download(assets_pb2.DownloadRequest(name=asset.name)))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    for scope, wanted in (("assets.read", 404), ("assets.write", 403)):
        connection = http.client.HTTPConnection(stack.gateway, timeout=30)
        connection.request("GET", f"/assets/{digest}", headers={"authorization": f"Bearer {issuer.mint(scope)}"})
        assert connection.getresponse().status == wanted
        connection.close()


def test_bytes_for_some_are_not_kept_for_others(guarded: tuple[Stack, Issuer], tmp_path: Path) -> None:
    """
    Where reading needs a token, what a proxy keeps of an asset is private (RFC 9111, section 5.2.2.7).
    """
    stack, issuer = guarded
    file = tmp_path / "file"
    file.write_bytes(b"for those who may")
    with modelyard.connect(stack.gateway, issuer.mint("assets.write assets.read")) as ann:
        digest = ann.upload_file(file).name.rpartition("/")[2]
    connection = http.client.HTTPConnection(stack.gateway, timeout=30)
    connection.request("GET", f"/assets/{digest}", headers={"authorization": f"Bearer {issuer.mint('assets.read')}"})
    answer = connection.getresponse()
    assert answer.read() == b"for those who may"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    connection.close()


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_forged_identity_gets_nowhere(guarded: tuple[Stack, Issuer], way: str) -> None:
    """
    Headers that say who somebody is grant nothing, and the audit names whose token it was.
    """
    stack, issuer = guarded
    host, port = stack.services["registry"].addresses[0]
    target = stack.gateway if way == "gateway" else f"{host}:{port}"
    forged = (("x-modelyard-subject", "root"), ("x-modelyard-scopes", "registry.write admin"))
    request = models_pb2.CreateModelRequest(
        parent="namespaces/default", model_id=f"forged-{way}", model=models_pb2.Model(owner="me")
    )
    with modelyard.connect(target) as nobody, pytest.raises(grpc.RpcError) as refused:
        nobody.models.CreateModel(request, metadata=forged)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with modelyard.connect(target, issuer.mint("registry.write admin", "RS256")) as ann:
        made = ann.models.CreateModel(request, metadata=forged)
        (entry,) = ann.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(resource_prefix=made.name)).entries
    assert entry.actor == "ann"
