"""
Every RPC of the contracts with every kind of token, through the gateway and at the service's own port.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

import modelyard
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from gateway.openapi.bindings import Binding, bindings
from modelyard.cache.v1 import policy_pb2
from modelyard.cdn.v1 import assets_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import is_internal, permissions, scopes, services
from modelyard.registry.v1 import audit_pb2, models_pb2, namespaces_pb2, policies_pb2, versions_pb2
from services.registry.tests.test_policies import requests
from tests.end_to_end.access import cells
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
    "/modelyard.registry.v1.PolicyService/TestPermissions",
    "/modelyard.registry.v1.PolicyService/WatchPolicies",
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


def is_cached(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().HasExtension(policy_pb2.policy))


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
    # Break-glass access includes the scopes of the registry.
    enough = {table[path], *(["admin"] if table[path].startswith("registry.") else [])}
    scope, others = table[path], " ".join(sorted(set(table.values()) - enough))
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
        "admin": (issuer.mint("admin"), served if "admin" in enough and not closed else denied),
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
    assert len(ended) == 8 * len(METHODS)
    wrong = [f"{cell}: {found}" for cell, wanted, found in ended if found is not wanted]
    assert not wrong, "\n".join(wrong)


def test_the_matrix_as_json(guarded: tuple[Stack, Issuer], stranger: Issuer) -> None:
    """
    The same for every JSON path: 401, 403, and for the right scope neither unless it takes an owner, with
    google.rpc.Status in each body.
    """
    stack, issuer = guarded
    status = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}
    wrong: list[str] = []
    connection = http.client.HTTPConnection(stack.gateway, timeout=30)
    for method in METHODS:
        # A stream that goes on has no end, and what streams in is no JSON.
        for binding in [] if method.server_streaming or method.client_streaming else bindings(method):
            for what, (token, wanted) in expected(issuer, stranger, path_of(method)).items():
                if what == "admin":
                    # It would do what it is told: the matrix of roles has requests that change nothing.
                    continue
                if what == "right scope" and cells.templates(method) and cells.needed(method) == cells.OWNER:
                    wanted = grpc.StatusCode.PERMISSION_DENIED  # noqa: PLW2901 - the first policy makes nobody an owner
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


@dataclass(frozen=True)
class Grounds:
    """
    The namespaces of `cells`, with a model, two versions, an alias, a card, results and a deployment in each, and
    policies that make `cells.CALLERS` what they are.
    """

    stack: Stack
    issuer: Issuer

    def token(self, caller: cells.Caller) -> str:
        """
        A token with all scopes that a policy can restrict.
        """
        scope = "admin" if caller.admin else "registry.read registry.write"
        return self.issuer.mint(scope, sub=caller.subject)

    def target(self, way: str) -> str:
        """
        The gateway, or the registry's own port.
        """
        host, port = self.stack.services["registry"].addresses[0]
        return self.stack.gateway if way == "gateway" else f"{host}:{port}"


def policy(name: str, roles: Mapping[str, str], *, private: bool = False) -> policies_pb2.SetPolicyRequest:
    """
    A request to set a policy: roles with their members, separated by spaces.
    """
    bindings_ = [
        policies_pb2.Policy.Binding(
            role=policies_pb2.Policy.Role.Value(f"ROLE_{role.upper()}"), members=members.split()
        )
        for role, members in roles.items()
    ]
    return policies_pb2.SetPolicyRequest(policy=policies_pb2.Policy(name=name, bindings=bindings_, private=private))


@pytest.fixture(scope="module")
def grounds(guarded: tuple[Stack, Issuer]) -> Iterator[Grounds]:
    """
    The namespaces of the matrix; the registry's policy is that of a new registry again afterwards.
    """
    found = Grounds(*guarded)
    named = {each.subject: each for each in cells.CALLERS}
    with modelyard.connect(found.stack.gateway, found.token(cells.ADMIN)) as root:
        for place in cells.PLACES:
            if place != cells.MISSING:
                fill(root, place)
        own = {role: f"user:{role}" for role in cells.ROLES if named[role].own}
        above = {role: f"user:above-{role}" for role in cells.ROLES if f"above-{role}" in named}
        root.policies.SetPolicy(policy(f"namespaces/{cells.OWN}/policy", own))
        root.policies.SetPolicy(policy(f"namespaces/{cells.OTHER}/policy", {}))
        root.policies.SetPolicy(
            policy(f"namespaces/{cells.PRIVATE}/policy", {"maintainer": "user:somebody"}, private=True)
        )
        root.policies.SetPolicy(policy(f"namespaces/{cells.PUBLIC}/policy", {"reader": "everyone"}))
        revision = root.policies.SetPolicy(policy("policy", above)).revision
        for channel in (root, modelyard.connect(found.target("service"), found.token(cells.ADMIN))):
            channel.models.GetModel(
                models_pb2.GetModelRequest(name=f"namespaces/{cells.OWN}/models/m"),
                metadata=(("x-min-revision", str(revision)),),
            )
        yield found
        root.policies.SetPolicy(policy("policy", {"maintainer": "everyone"}))


def fill(root: modelyard.Client, place: str) -> None:
    """
    Create a namespace with something of every kind in it.
    """
    model = f"namespaces/{place}/models/m"
    root.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=place))
    root.models.CreateModel(models_pb2.CreateModelRequest(parent=f"namespaces/{place}", model_id="m"))
    for _ in range(2):
        made = root.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=model))
        root.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    known: Mapping[str, Any] = requests(place)
    root.models.CreateModel(known["CreateModel"])
    root.imports.ImportModels(iter([known["ImportModels"]]))
    root.aliases.MoveAliases(known["MoveAliases"])
    root.cards.UpdateCard(known["UpdateCard"])
    root.evaluations.RecordEvaluations(known["RecordEvaluations"])
    root.deployments.CreateDeployment(known["CreateDeployment"])


ABOUT_ONE = [method for method in METHODS if cells.templates(method)]
_PASSING = {"x-request-id", "x-revision", "age", "date", "server", "x-envoy-upstream-service-time", "x-visibility"}
#: What no administrator may get.
REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN")
_Cell = tuple[str, cells.Caller, str]
_Said = tuple[str, str, str, tuple[tuple[str, object], ...]]


async def ask(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message, token: str, place: str) -> _Said:
    """
    The code, the reason and message, and the trailing metadata of a call, without the namespace's id.
    """
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    data = request.SerializeToString()
    sent = iter([data]) if method.client_streaming else data
    call = getattr(channel, "_".join(kind))(path_of(method))(
        sent, metadata=(("authorization", f"Bearer {token}"),), timeout=60
    )
    try:
        if method.server_streaming:
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        problem = modelyard.explain(error)
        trailing: Any = error.trailing_metadata()
        rest = tuple(sorted((key, _neutral(value, place)) for key, value in trailing or () if key not in _PASSING))
        return error.code().name, problem.reason, str(_neutral(problem.message, place)), rest
    return "OK", "", "", ()


def _neutral(text: str | bytes, place: str) -> str:
    return repr(text).replace(place, "NAMESPACE")


def judged(found: Mapping[_Cell, _Said], methods: Sequence[MethodDescriptor]) -> list[str]:
    """
    The cells that are not as they have to be.
    """
    wrong = []
    for method in methods:
        for caller, place in cells.PAIRS:
            said = found[method.name, caller, place]
            wanted = cells.expected(method, caller, place)
            if wanted == "denied":
                fits = said[:2] == ("PERMISSION_DENIED", "PERMISSION_DENIED")
            elif wanted == "missing":
                fits = _uncached(said) == _uncached(found[method.name, caller, cells.MISSING])
            else:
                served = found[method.name, cells.ADMIN, place]
                fits = said[0] == served[0] and said[0] not in (
                    "PERMISSION_DENIED",
                    "UNAUTHENTICATED",
                    "UNAVAILABLE",
                )
            if not fits:
                against = found[
                    method.name,
                    cells.ADMIN if wanted == "served" else caller,
                    cells.MISSING if wanted == "missing" else place,
                ]
                wrong.append(f"{method.name}, {caller.subject} in {place}: {wanted}, but {said}, not {against}")
    return wrong


def _uncached(said: _Said) -> object:
    # Whether it came from the cache depends on who asked before.
    return *said[:3], tuple(each for each in said[3] if each[0] != "x-cache")


def test_every_permission_is_in_the_table_of_the_tests() -> None:
    """
    A new permission of the registry is entered here by hand, beside the documentation.
    """
    missing = {
        each.name
        for method in METHODS
        if method.containing_service.full_name.startswith("modelyard.registry.")
        for each in permissions()[path_of(method)]
    }
    assert missing <= cells.NEEDS.keys()


@pytest.mark.parametrize("way", ["gateway", "service"])
async def test_the_matrix_of_roles(grounds: Grounds, way: str) -> None:
    """
    Every RPC about a namespace, with every role, in the namespace where the role is bound, in another, in a private
    one, in a public one and in one that does not exist: whoever has the role gets what an administrator gets; who may
    read and not more is denied; for anybody else it does not exist. Through the gateway, what is cached is asked twice.
    """
    cached = [method for method in ABOUT_ONE if is_cached(method)]
    assert cached
    async with AsyncExitStack() as stacked:
        channels = [await stacked.enter_async_context(grpc.aio.insecure_channel(grounds.target(way))) for _ in range(2)]
        for methods in [ABOUT_ONE, cached] if way == "gateway" else [ABOUT_ONE]:
            wrong = judged(await answers(grounds, channels, methods), methods)
            assert not wrong, "\n".join(wrong)


async def answers(
    grounds: Grounds, channels: Sequence[grpc.aio.Channel], methods: Sequence[MethodDescriptor]
) -> dict[_Cell, _Said]:
    """
    What comes of each cell; sixteen calls at a time.
    """
    tokens = {caller: grounds.token(caller) for caller in cells.CALLERS}
    asked = {(method.name, place): cells.request(method, place) for method in methods for place in cells.PLACES}
    left = [(method, caller, place) for method in methods for caller, place in cells.PAIRS]
    found: dict[_Cell, _Said] = {}

    async def work(channel: grpc.aio.Channel) -> None:
        while left:
            method, caller, place = left.pop()
            request = asked[method.name, place]
            found[method.name, caller, place] = await ask(channel, method, request, tokens[caller], place)

    await asyncio.gather(*(work(channels[number % len(channels)]) for number in range(16)))
    return found


async def test_what_a_request_mentions(grounds: Grounds) -> None:
    """
    Whatever else a request names (the source of a copy, the version of a deployment, names in a batch): to name
    something in a namespace that the caller may not read tells nothing about it.
    """
    owner = next(caller for caller in cells.CALLERS if caller.own == cells.OWNER)
    token, asked, told = grounds.token(owner), 0, []
    async with grpc.aio.insecure_channel(grounds.target("service")) as channel:
        for method in ABOUT_ONE:
            hidden, missing = (cells.mentions(method, cells.OWN, other) for other in (cells.PRIVATE, cells.MISSING))
            for (path, there), (_, nowhere) in zip(hidden, missing, strict=True):
                asked += 1
                answer = await ask(channel, method, there, token, cells.PRIVATE)
                if answer != (other := await ask(channel, method, nowhere, token, cells.MISSING)):
                    told.append(f"{method.name}, {path}: {answer}, not {other}")
    assert asked
    assert not told, "\n".join(told)


async def test_the_change_stream_is_for_readers(grounds: Grounds) -> None:
    """
    Everybody's change stream, from the first change on, has the changes of the namespaces that they may read.
    """
    async with grpc.aio.insecure_channel(grounds.target("gateway")) as channel:
        for caller in cells.CALLERS:
            named = {each.split("/")[1] for each in await changed(channel, grounds.token(caller)) if "/" in each}
            readable = {place for place in cells.PLACES if place != cells.MISSING and caller.role(place)}
            assert named & set(cells.PLACES) == readable, caller


async def changed(channel: grpc.aio.Channel, token: str) -> set[str]:
    """
    The names in the change stream of a caller, up to the present.
    """
    watch = channel.unary_stream(
        "/modelyard.registry.v1.ChangeService/WatchChanges",
        request_serializer=changes_pb2.WatchChangesRequest.SerializeToString,
        response_deserializer=changes_pb2.WatchChangesResponse.FromString,
    )
    call = watch(
        changes_pb2.WatchChangesRequest(start_revision=1), metadata=(("authorization", f"Bearer {token}"),), timeout=60
    )
    names: set[str] = set()
    async for event in call:
        names.update(change.resource for change in event.revision.changes)
        if event.heartbeat.HasField("current_until"):
            break
    call.cancel()
    return names


@pytest.mark.parametrize("form", ["json", "grpc-web"])
def test_the_matrix_in_other_forms(grounds: Grounds, form: str) -> None:
    """
    JSON and gRPC-Web get what gRPC gets: each role in the namespace where it is bound, and in a private one.
    """
    connection = http.client.HTTPConnection(grounds.stack.gateway, timeout=60)
    wrong: list[str] = []
    for method in ABOUT_ONE:
        if method.client_streaming or method.server_streaming:
            continue
        served: dict[str, int] = {}
        # The administrator first: what others get is compared with that.
        for caller in [cells.ADMIN, *(each for each in cells.CALLERS if not (each.above or each.admin))]:
            said = {
                place: (post_json if form == "json" else post_web)(
                    connection, method, cells.request(method, place), grounds.token(caller)
                )
                for place in (cells.OWN, cells.PRIVATE, cells.MISSING)
            }
            for place in (cells.OWN, cells.PRIVATE):
                wanted, found = cells.expected(method, caller, place), said[place]
                if wanted == "missing":
                    fits = _neutral(found[1], place) == _neutral(said[cells.MISSING][1], cells.MISSING)
                elif caller.admin:
                    served[place] = found[0]
                    fits = found[0] not in (401, 403, 500, 503, 7, 16) and "no such path" not in found[1]
                else:
                    fits = found[0] == ((403 if form == "json" else 7) if wanted == "denied" else served[place])
                if not fits:
                    wrong.append(f"{method.name}, {caller.subject} in {place}: {wanted}, but {found}")
    connection.close()
    assert not wrong, "\n".join(wrong)


def post_json(
    connection: http.client.HTTPConnection, method: MethodDescriptor, request: Message, token: str
) -> tuple[int, str]:
    """
    The status and the body of a call over the method's first path.
    """
    binding = bindings(method)[0]
    values: dict[str, Any] = json_format.MessageToDict(request, preserving_proto_field_name=True)
    path = re.sub(r"\{([a-z0-9_.]+)[^}]*\}", lambda found: _taken(values, found[1].split(".")), binding.template)
    body: str | None = None
    if binding.body:
        body = json.dumps(values if binding.body == "*" else values.pop(binding.body, {}))
    query = {} if binding.body == "*" else {k: ",".join(v) if isinstance(v, list) else v for k, v in values.items()}
    path += f"?{urllib.parse.urlencode(query)}" if query else ""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    connection.request(binding.verb.upper(), path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def _taken(values: dict[str, Any], path: list[str]) -> str:
    *above, name = path
    for each in above:
        values = values[each]
    return str(values.pop(name))


def post_web(
    connection: http.client.HTTPConnection, method: MethodDescriptor, request: Message, token: str
) -> tuple[int, str]:
    """
    The gRPC code and message of a call over gRPC-Web.
    """
    data = request.SerializeToString()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    connection.request("POST", path_of(method), b"\0" + len(data).to_bytes(4, "big") + data, headers)
    answer = connection.getresponse()
    body = answer.read()
    if (code_ := answer.headers.get("grpc-status")) is not None:
        return int(code_), answer.headers.get("grpc-message", "")
    trailers = dict(
        line.split(":", 1) for line in body[body.rindex(b"\x80") + 5 :].decode().split("\r\n") if ":" in line
    )
    return int(trailers["grpc-status"]), trailers.get("grpc-message", "")


def test_the_matrix_of_bytes(grounds: Grounds, tmp_path: Path) -> None:
    """
    Bytes that only a private namespace pins are not there for who may not read it, at `/assets` and by `Download`;
    those of a namespace that `everyone` may read are for everybody.
    """
    digests = {}
    scopes_ = "assets.read assets.write registry.read registry.write"
    with modelyard.connect(grounds.stack.gateway, grounds.issuer.mint(f"{scopes_} admin", sub="root")) as root:
        for place in (cells.PUBLIC, cells.PRIVATE):
            file = tmp_path / place
            file.write_bytes(f"weights of {place}".encode())
            asset = root.upload_file(file)
            digests[place] = asset.name.rpartition("/")[2]
            artifact = versions_pb2.Artifact(path="w", sha256=asset.sha256, size_bytes=asset.size_bytes)
            parent = f"namespaces/{place}/models/m"
            draft = versions_pb2.CreateVersionRequest(parent=parent, version=versions_pb2.Version(artifacts=[artifact]))
            root.versions.FinalizeVersion(
                versions_pb2.FinalizeVersionRequest(name=root.versions.CreateVersion(draft).name)
            )
    wrong = []
    connection = http.client.HTTPConnection(grounds.stack.gateway, timeout=60)
    for caller in cells.CALLERS:
        token = grounds.issuer.mint("admin assets.read" if caller.admin else scopes_, sub=caller.subject)
        for place, digest in digests.items():
            connection.request("GET", f"/assets/{digest}", headers={"authorization": f"Bearer {token}"})
            response = connection.getresponse()
            response.read()
            if response.status != (200 if caller.role(place) else 404):
                wrong.append(f"/assets, {caller.subject} in {place}: {response.status}")
            with modelyard.connect(grounds.target("gateway"), token) as client:
                try:
                    list(client.assets.Download(assets_pb2.DownloadRequest(name=f"assets/{digest}")))
                    served = True
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017
                    served = False
            if served != bool(caller.role(place)):
                wrong.append(f"Download, {caller.subject} in {place}: {served}")
    connection.close()
    assert not wrong, "\n".join(wrong)
