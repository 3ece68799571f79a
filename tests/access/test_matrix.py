"""
Every RPC of the contracts with every kind of token, through the gateway and at the service's own port.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

import modelyard
from modelyard.contracts import scopes, services
from modelyard.registry.v1 import audit_pb2, models_pb2
from services.embedded.stack import Stack, StackSettings
from services.embedded.testing import scratch
from tests.access.tokens import Issuer, settings

METHODS = [method for service in services() for method in service.methods]
REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
BROKEN = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Stack, Issuer]]:
    """
    The suite with access control on, and who issues its tokens.
    """
    with scratch() as state:
        issuer, own = Issuer(state / "jwks.json"), state / "service-token"
        own.write_text(issuer.mint("registry.read assets.read assets.write", sub="service"))
        environment = {**settings(issuer), "MODELYARD_SERVICE_TOKEN_FILE": str(own)}
        with Stack(StackSettings(state=state, gateway_port=0, environment=environment)) as running:
            yield running, issuer
            running.kill("s3")


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def code(target: str, method: MethodDescriptor, token: str | None) -> grpc.StatusCode:
    """
    How an empty request ends. A stream that goes on has begun, and is left.
    """
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(target) as channel:
        kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        call = getattr(channel, "_".join(kind))(path_of(method))
        sent = iter([b""]) if method.client_streaming else b""
        try:
            answer = call(sent, metadata=metadata, timeout=1 if method.server_streaming else 10)
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


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_the_matrix(guarded: tuple[Stack, Issuer], way: str) -> None:
    """
    No token, an expired one, one for another audience: UNAUTHENTICATED. All scopes but the right one:
    PERMISSION_DENIED. The right scope alone: neither.
    """
    stack, issuer = guarded
    table = scopes()
    every = set(table.values())
    wrong: list[str] = []
    for method in METHODS:
        scope = table[path_of(method)]
        package = method.containing_service.file.package.split(".")[1]
        host, port = stack.services[package].addresses[0]
        target = stack.gateway if way == "gateway" else f"{host}:{port}"
        unknown: dict[str, str | None] = {
            "no token": None,
            "expired": issuer.mint(scope, exp=int(time.time()) - 60),
            "wrong audience": issuer.mint(scope, aud="another"),
        }
        for what, token in unknown.items():
            if (found := code(target, method, token)) is not grpc.StatusCode.UNAUTHENTICATED:
                wrong.append(f"{path_of(method)}, {what}: {found}")
        others = " ".join(sorted(every - {scope}))
        if (found := code(target, method, issuer.mint(others))) is not grpc.StatusCode.PERMISSION_DENIED:
            wrong.append(f"{path_of(method)}, wrong scope: {found}")
        if (found := code(target, method, issuer.mint(scope))) in REFUSED | BROKEN:
            wrong.append(f"{path_of(method)}, right scope: {found}")
    assert not wrong, "\n".join(wrong)


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
