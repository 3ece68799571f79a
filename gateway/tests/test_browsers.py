"""
What a page of another site can do through its visitor's browser.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from embedded.s3 import S3
from gateway import browsers
from gateway.access import Tokens
from gateway.tests import harness
from gateway.tests.echo import Echo, call
from services.chassis.access import AccessMode
from tests.tokens import AUDIENCE, ISSUER, Issuer

MODELS = "/v1/namespaces/default/models"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"
JSON = "application/json"
WRITES = {"POST": MODELS, "PATCH": f"{MODELS}/m", "DELETE": f"{MODELS}/m"}
EMPTY = b"\0\0\0\0\0"  # a frame without a message


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")


@pytest.fixture(scope="module", params=["off", "on"])
def edge(
    request: pytest.FixtureRequest,
    issuer: Issuer,
    echo: tuple[Echo, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[harness.Edge]:
    """
    A gateway on loopback that one site's scripts may call, and which is also called yard.example.
    """
    state = tmp_path_factory.mktemp(f"browsers-{request.param}")
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file) if request.param == "on" else None
    services = dict.fromkeys(("registry", "cache"), echo[1])
    given: dict[str, Any] = {"origins": ["https://app.example"], "hosts": ["yard.example", "*.yard.example"]}
    with harness.gateway(S3(state, 1), state, tokens=tokens, services=services, **given) as running:
        yield running


@pytest.fixture
def token(issuer: Issuer) -> str:
    return f"Bearer {issuer.mint('registry.read registry.write admin')}"


def reason(answer: harness.Answer) -> tuple[int, int, str]:
    """
    The status, the code and the reason of a refusal as JSON.
    """
    (info,) = answer.error["details"]
    return answer.status, answer.error["code"], info.get("reason", "")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.evil", "null", "http://localhost:1", ""]
)
def test_another_site_writes_nothing(edge: harness.Edge, echo: tuple[Echo, int], token: str, origin: str) -> None:
    """
    A write that comes with the origin of another site is refused, as JSON by every method and as gRPC-Web, and no
    service hears of it.
    """
    before = len(echo[0].told)
    for method, path in WRITES.items():
        answer = edge.ask(path, method, b"{}", origin=origin, content_type=JSON, authorization=token)
        assert reason(answer) == (403, 7, "ORIGIN_NOT_ALLOWED")
    kind = "application/grpc-web+proto"
    answer = edge.ask(CREATE, "POST", EMPTY, origin=origin, content_type=kind, x_grpc_web="1", authorization=token)
    assert answer.headers["grpc-status"] == "7"
    assert "origin" in answer.headers["grpc-message"]
    assert len(echo[0].told) == before


def test_our_own_pages_and_named_sites_write(edge: harness.Edge, echo: tuple[Echo, int], token: str) -> None:
    """
    The origin of the gateway itself, by whatever name it was called, and those of the setting may write; anybody may
    read, as far as CORS lets them see it.
    """
    for host in (f"localhost:{edge.port}", f"127.0.0.1:{edge.port}", "yard.example"):
        for origin in (f"http://{host}", f"https://{host}", "https://app.example"):
            before = len(echo[0].told)
            edge.ask(MODELS, "POST", b"{}", host=host, origin=origin, content_type=JSON, authorization=token)
            assert len(echo[0].told) == before + 1
    before = len(echo[0].told)
    read = edge.ask(MODELS, origin="https://evil.example", authorization=token)
    assert "access-control-allow-origin" not in read.headers
    assert len(echo[0].told) == before + 1


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/json, text/plain",
        "",
    ],
)
def test_a_body_is_json_or_nothing(edge: harness.Edge, echo: tuple[Echo, int], token: str, kind: str) -> None:
    """
    What a page may send to another site without asking before, a text or a form, is no JSON, also where it is empty.
    """
    before = len(echo[0].told)
    for body in (b'{"owner": "evil"}', b""):
        answer = edge.ask(MODELS, "POST", body, content_type=kind, authorization=token)
        assert (answer.status, answer.error["code"]) == (415, 3)
        assert "content-type: application/json" in answer.error["message"]
    assert len(echo[0].told) == before


def test_a_body_without_a_type_is_refused(edge: harness.Edge, echo: tuple[Echo, int], token: str) -> None:
    """
    A page may send a body without a type, which need not say how long it is; without a body there need not be one.
    """
    before = len(echo[0].told)
    assert edge.ask(MODELS, "POST", b"{}", authorization=token).status == 415
    connection = edge.connect()
    connection.request("POST", MODELS, iter([b"{}"]), {"authorization": token, "host": "localhost"})
    assert connection.getresponse().status == 415
    connection.close()
    assert len(echo[0].told) == before
    for body in (None, b""):
        edge.ask(MODELS, "POST", body, authorization=token)
    assert len(echo[0].told) == before + 2


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
def test_json_is_taken(edge: harness.Edge, echo: tuple[Echo, int], token: str, kind: str) -> None:
    """
    JSON, in any spelling of its type.
    """
    before = len(echo[0].told)
    edge.ask(MODELS, "POST", b"{}", content_type=kind, authorization=token)
    assert len(echo[0].told) == before + 1


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "yard.example.evil"]
)
def test_a_name_that_is_not_ours_leads_nowhere(
    edge: harness.Edge, echo: tuple[Echo, int], token: str, name: str
) -> None:
    """
    A page whose name has come to lead to loopback (DNS rebinding) can neither read nor write, nor see the page.
    """
    before = len(echo[0].told)
    for method, body in (("GET", None), ("POST", b"{}")):
        answer = edge.ask(MODELS, method, body, host=name, content_type=JSON, authorization=token)
        assert reason(answer) == (403, 7, "HOST_NOT_ALLOWED")
    assert edge.ask("/", host=name).status == 403
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}", options=[("grpc.default_authority", name)]) as channel:
        ask: Any = channel.unary_unary(CREATE)  # type: ignore[call-arg]  # bytes need no serializers
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", metadata=[("authorization", token)], timeout=20)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(echo[0].told) == before


def test_names_of_its_own(edge: harness.Edge, token: str) -> None:
    """
    Those of loopback, with any port, and those that it was given.
    """
    for name in (
        "localhost",
        "localhost:1",
        "127.0.0.1",
        "[::1]:8080",
        "yard.example:443",
        "a.yard.example",
        "YARD.example",
    ):
        assert edge.ask("/healthz", host=name).status == 200, name
    assert call(edge, CREATE, token)[0] is grpc.StatusCode.OK


def test_names_where_it_does_not_listen_on_loopback() -> None:
    """
    Elsewhere it has every name, unless it was given some.
    """
    assert browsers.hosts("0.0.0.0", []) == []  # noqa: S104 - it is not listened on
    assert browsers.hosts("10.0.0.1", ["yard.example"]) == ["localhost", "127.0.0.1", "[::1]", "yard.example"]
    assert all(browsers.hosts(each, []) for each in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))


@pytest.mark.parametrize("name", ["", "*", "yard.example:8080", "http://yard.example", "a b", "*.", "::1"])
def test_what_is_no_name_is_a_usage_error(name: str) -> None:
    """
    A name that no Host could match is refused.
    """
    with pytest.raises(argparse.ArgumentTypeError, match="is not a host name"):
        browsers.host(name)
