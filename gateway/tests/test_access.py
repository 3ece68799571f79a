"""
Tokens at the gateway, whose services do not look at them: what it refuses by itself, and what it tells the services.
"""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jwt.algorithms import ECAlgorithm

from embedded.s3 import S3
from gateway import access
from gateway.access import Login, Tokens
from gateway.openapi.bindings import bindings
from gateway.site import LOGIN
from gateway.tests import harness
from gateway.tests.echo import Echo, call
from modelyard.contracts import public_scopes, scopes, services
from services.chassis.access import AccessMode
from services.chassis.access.api_tokens import SCOPES as API_TOKEN_SCOPES
from services.chassis.access.policy import PUBLIC
from services.chassis.access.roles import Role
from tests.tokens import AUDIENCE, ISSUER, Issuer

GET = "/modelyard.registry.v1.ModelService/GetModel"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"
SUBJECT, SCOPES = "x-modelyard-subject", "x-modelyard-scopes"


@contextmanager
def gateway(tokens: Tokens, state: Path, port: int) -> Iterator[harness.Edge]:
    with harness.gateway(S3(state, 1), state, tokens=tokens, services={"registry": port, "cache": port}) as running:
        yield running


SECRET = b"a secret that is as long as it has to be"
CURVE = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """
    An issuer whose key set also has keys that nobody may sign with: a shared secret, and one of another algorithm.
    """
    issuer = Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")
    keys = json.loads(issuer.file.read_text())["keys"]
    shared = {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("="), "alg": "HS256"}
    longer = {**ECAlgorithm.to_jwk(CURVE.public_key(), as_dict=True), "kid": "longer", "alg": "ES384"}
    issuer.file.write_text(json.dumps({"keys": [*keys, shared, longer]}))
    return issuer


@pytest.fixture(scope="module")
def edge(issuer: Issuer, echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway that wants a token for everything.
    """
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file, login=Login(ISSUER, "modelyard-cli", "openid"))
    with gateway(tokens, tmp_path_factory.mktemp("closed"), echo[1]) as running:
        yield running


@pytest.fixture(scope="module")
def public(issuer: Issuer, echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway where everybody reads.
    """
    tokens = Tokens(AccessMode.READ_PUBLIC, ISSUER, AUDIENCE, issuer.file, reflection=True)
    with gateway(tokens, tmp_path_factory.mktemp("public"), echo[1]) as running:
        yield running


OK = (grpc.StatusCode.OK, "")
MISSING = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
EXPIRED = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
INVALID = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


def test_what_a_token_has_to_be(edge: harness.Edge, issuer: Issuer, tmp_path: Path) -> None:
    """
    Signed by a known key, of the issuer, for us, not expired, with the scope as a word of its own; and the refusal says
    which of that it is not.
    """
    mint, now = issuer.mint, int(time.time())
    expected = {
        "no token": (None, MISSING),
        "another scheme": ("Basic YW5uOnNlY3JldA==", INVALID),
        "no token in it": ("Bearer ", INVALID),
        "garbage": ("Bearer a.b.c", INVALID),
        "expired": (f"Bearer {mint('registry.read', exp=now - 60)}", EXPIRED),
        "of another issuer": (f"Bearer {mint('registry.read', iss='https://else.example')}", INVALID),
        "for another audience": (f"Bearer {mint('registry.read', aud='another')}", INVALID),
        "of an unknown key": (f"Bearer {Issuer(tmp_path / 'other.json', 'other').mint('registry.read')}", INVALID),
        "no scope": (f"Bearer {mint('')}", DENIED),
        "another scope": (f"Bearer {mint('registry.write assets.read')}", DENIED),
        "a longer word": (f"Bearer {mint('registry.readable xregistry.read registry-read')}", DENIED),
        "the scope": (f"Bearer {mint('registry.read')}", OK),
        "among others": (f"Bearer {mint('a registry.read b', 'RS256')}", OK),
        "in small letters": (f"bearer {mint('registry.read')}", OK),
        "a moment late": (f"Bearer {mint('registry.read', exp=now - 3)}", OK),
    }
    with edge.connect_grpc() as channel:
        found = {name: call(edge, GET, token, channel) for name, (token, _) in expected.items()}
    assert found == {name: wanted for name, (_, wanted) in expected.items()}


API_TOKEN = "my_0123456789_" + 38 * "x"


def test_api_tokens_are_left_to_the_services(edge: harness.Edge, issuer: Issuer) -> None:
    """
    An opaque token passes, for calls that need a scope which such a token can have, as gRPC and as JSON; the services
    verify it. It opens nothing else: no other scope, no reflection, no health that lasts, no bytes.
    """
    with edge.connect_grpc() as channel:
        assert call(edge, GET, f"Bearer {API_TOKEN}", channel) == OK
        for path, scope in public_scopes().items():
            # There is no asset service here.
            reason = "" if scope in API_TOKEN_SCOPES[Role.OWNER] else "SCOPE_MISSING"
            assert (path, call(edge, path, f"Bearer {API_TOKEN}", channel)[1]) == (path, reason)
        for path in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            assert call(edge, path, f"Bearer {API_TOKEN}", channel) == INVALID
        jwt_too = f"Bearer {API_TOKEN}, Bearer {issuer.mint('registry.read')}"
        for wrong in (f"Bearer {API_TOKEN} x", f"Basic {API_TOKEN}", "Bearer my_", "Bearer my-x", jwt_too):
            assert (wrong, call(edge, GET, wrong, channel)) == (wrong, INVALID)
    assert ask(edge, "/v1/namespaces/default/models/m", API_TOKEN).status == 200
    for path in ("/assets/" + 64 * "a", "/static/logo.svg"):
        # The asset service decides, which is not there.
        assert ask(edge, path, API_TOKEN).status == 503


def test_an_api_token_names_nobody_at_the_gateway(edge: harness.Edge, echo: tuple[Echo, int]) -> None:
    """
    Services are not told a subject that nobody has verified.
    """
    said = call(edge, GET, f"Bearer {API_TOKEN}", None, x_modelyard_subject="root", x_modelyard_scopes="admin")
    assert said == OK
    told = echo[0].told[-1]
    assert not {SUBJECT, SCOPES} & told.keys()
    assert told["authorization"] == f"Bearer {API_TOKEN}"


@pytest.mark.parametrize("mode", ["edge", "public"])
def test_keys_of_other_kinds_sign_nothing(mode: str, request: pytest.FixtureRequest, issuer: Issuer) -> None:
    """
    The gateway rejects what the services reject, though its key set has the key: a shared secret, which all readers of
    the set could sign with, and other algorithms. The same holds for bytes, which no service checks.
    """
    running: harness.Edge = request.getfixturevalue(mode)
    claims = jwt.decode(issuer.mint("registry.read assets.read"), options={"verify_signature": False})
    forged = [
        jwt.encode(claims, SECRET, "HS256", {"kid": "shared"}),
        jwt.encode(claims, CURVE, "ES384", {"kid": "longer"}),
        issuer.resign(claims, "RS512"),
    ]
    with running.connect_grpc() as channel:
        for _ in range(2):  # the second time from its cache
            assert call(running, GET, f"Bearer {issuer.mint('registry.read')}", channel) == OK
            for token in forged:
                assert call(running, GET, f"Bearer {token}", channel) == INVALID
                answer = ask(running, "/v1/namespaces/default/models", token)
                assert (answer.status, answer.error["details"][0]["reason"]) == (401, "TOKEN_INVALID")
                assert ask(running, "/static/logo.svg", token).status == (401 if mode == "edge" else 503)


def test_a_token_without_an_end_is_refused(edge: harness.Edge, issuer: Issuer) -> None:
    """
    A token that never expires could never be taken back.
    """
    claims = jwt.decode(issuer.mint("registry.read"), options={"verify_signature": False})
    del claims["exp"]
    assert call(edge, GET, f"Bearer {issuer.sign(claims)}")[0] is grpc.StatusCode.UNAUTHENTICATED


def test_each_rpc_needs_its_own_scope(edge: harness.Edge, issuer: Issuer) -> None:
    """
    Every unary call of the contracts: all scopes but its own do not open it. The services are not asked. The scope
    `admin` includes those of the registry.
    """
    table = scopes()
    every = set(table.values())
    enough = {scope: {scope, *(["admin"] if scope.startswith("registry.") else [])} for scope in every}
    others = {scope: f"Bearer {issuer.mint(' '.join(every - enough[scope]))}" for scope in every}
    with edge.connect_grpc() as channel:
        found = {path: call(edge, path, others[scope], channel) for path, scope in table.items()}
    assert found == dict.fromkeys(table, DENIED)


def test_services_are_told_who_calls(edge: harness.Edge, echo: tuple[Echo, int], issuer: Issuer) -> None:
    """
    They get the subject and the scopes of the token, whatever the client says about itself.
    """
    forged: dict[str, Any] = {"x_modelyard_subject": "root", "x_modelyard_scopes": "admin"}
    assert call(edge, GET, f"Bearer {issuer.mint('registry.read x')}", **forged) == OK
    told = echo[0].told[-1]
    assert (told[SUBJECT], told[SCOPES]) == ("ann", "registry.read x")
    assert told["authorization"].startswith("Bearer ")


def test_nobody_is_nobody(public: harness.Edge, echo: tuple[Echo, int]) -> None:
    """
    Without a token a service is told of no identity, however often one is claimed.
    """
    forged: dict[str, Any] = {"x_modelyard_subject": "root", "x_modelyard_scopes": "admin"}
    assert call(public, GET, None, **forged) == OK
    assert not {SUBJECT, SCOPES} & echo[0].told[-1].keys()


def test_public_reading(public: harness.Edge, issuer: Issuer) -> None:
    """
    Reading needs no token, but a token that is sent has to be good; all else needs one, and its scope.
    """
    expired = f"Bearer {issuer.mint('registry.read', exp=int(time.time()) - 60)}"
    found = [
        call(public, GET, None),
        call(public, GET, f"Bearer {issuer.mint('nothing')}"),
        call(public, GET, expired),
        call(public, CREATE, None),
        call(public, CREATE, f"Bearer {issuer.mint('registry.read')}"),
        call(public, CREATE, f"Bearer {issuer.mint('registry.write')}"),
    ]
    assert found == [OK, OK, EXPIRED, MISSING, DENIED, OK]


def test_an_rpc_without_a_scope_is_denied(issuer: Issuer, echo: tuple[Echo, int], tmp_path: Path) -> None:
    """
    What the table of scopes does not have is closed to every token.
    """
    table = {path: scope for path, scope in scopes().items() if path != GET}
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "public_scopes", lambda: table)
        with gateway(tokens, tmp_path, echo[1]) as running:
            everything = f"Bearer {issuer.mint(' '.join(set(table.values())))}"
            assert call(running, GET, everything) == DENIED
            assert call(running, GET, None) == MISSING
            assert call(running, CREATE, everything) == OK


def test_health_and_reflection(edge: harness.Edge, public: harness.Edge, issuer: Issuer) -> None:
    """
    How it is, anybody may ask; to watch it needs a token. Reflection is open where that was asked for, and else to
    nobody.
    """
    health, reflection = "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    every = f"Bearer {issuer.mint(' '.join(set(scopes().values())))}"
    found = [call(edge, health, None), call(edge, reflection, None), call(edge, reflection, every)]
    assert found == [OK, MISSING, DENIED]
    for method in ("Watch", "List"):
        path = f"/grpc.health.v1.Health/{method}"
        assert [call(edge, path, None), call(public, path, None), call(edge, path, every)] == [MISSING, MISSING, OK]
    assert call(public, reflection, None) == OK


def test_strangers_are_told_how_it_is_by_the_gateway(edge: harness.Edge, echo: tuple[Echo, int]) -> None:
    """
    No service is asked: the gateway says what its own health checks have found, of each service; of names that are not
    ours it knows nothing.
    """
    before = echo[0].asked
    found = {}
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        names = ("", "modelyard.registry.v1.ModelService", "modelyard.cdn.v1.AssetService", "grpc.health.v1.Health")
        for name in names:
            found[name] = check(health_pb2.HealthCheckRequest(service=name), timeout=20, wait_for_ready=True).status
    well, ill, unknown = (
        getattr(health_pb2.HealthCheckResponse, state) for state in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
    )
    assert list(found.values()) == [well, well, ill, unknown]
    assert echo[0].asked == before


def test_refusals_over_http(edge: harness.Edge, issuer: Issuer) -> None:
    """
    JSON callers get 401 with WWW-Authenticate (RFC 6750, section 3) or 403, and google.rpc.Status with the reason.
    """
    path, expired = "/v1/namespaces/default/models", issuer.mint("registry.read", exp=int(time.time()) - 60)
    for token, status, code, reason in (
        (None, 401, 16, "TOKEN_MISSING"),
        (expired, 401, 16, "TOKEN_EXPIRED"),
        (issuer.mint("registry.read", aud="another"), 401, 16, "TOKEN_INVALID"),
        (issuer.mint("assets.read"), 403, 7, "SCOPE_MISSING"),
    ):
        answer = ask(edge, path, token)
        assert (answer.status, answer.error["code"]) == (status, code)
        (info,) = answer.error["details"]
        assert (info["@type"], info["reason"]) == ("type.googleapis.com/google.rpc.ErrorInfo", reason)
        assert ("www-authenticate" in answer.headers) == (status == 401)


def test_what_is_open_to_everybody(edge: harness.Edge) -> None:
    """
    The page, the API's description, the gateway's health and browsers' questions before a call need no token.
    """
    open_to_all = ("/", "/openapi.json", "/healthz", LOGIN)
    assert [edge.ask(path).status for path in open_to_all] == [200, 200, 200, 200]
    assert json.loads(edge.ask(LOGIN).body)["login"]["client_id"] == "modelyard-cli"
    asked = edge.ask(
        "/v1/namespaces/default/models", "OPTIONS", origin="https://app.example", access_control_request_method="GET"
    )
    assert asked.status == 200


def beginning(edge: harness.Edge, path: str, token: str | None, kind: str, size: int) -> harness.Answer:
    """
    The answer to a POST whose body is announced and never sent.
    """
    connection = edge.connect()
    try:
        connection.putrequest("POST", path)
        connection.putheader("content-type", kind)
        connection.putheader("content-length", str(size))
        if token is not None:
            connection.putheader("authorization", f"Bearer {token}")
        connection.endheaders()
        answer = connection.getresponse()
        return harness.Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        )
    finally:
        connection.close()


@pytest.mark.parametrize("mode", ["edge", "public"])
def test_no_body_is_kept_of_who_is_refused(mode: str, request: pytest.FixtureRequest, issuer: Issuer) -> None:
    """
    Who has no token, or no good one, hears of it before the body is here: as gRPC, gRPC-Web and JSON. A token without
    the scope is refused at once over gRPC; of JSON it is known when it has been read which scope that is.
    """
    edge: harness.Edge = request.getfixturevalue(mode)
    bad, less = issuer.mint("registry.write", exp=int(time.time()) - 60), issuer.mint("assets.read")
    for kind in ("application/grpc", "application/grpc-web+proto"):
        found = {
            token: beginning(edge, CREATE, token, kind, 17 << 20).headers["grpc-status"] for token in (None, bad, less)
        }
        assert found == {None: "16", bad: "16", less: "7"}
    models = "/v1/namespaces/default/models"
    for token in (None, bad):
        answer = beginning(edge, models, token, "application/json", 2_000_000)
        assert (answer.status, answer.error["code"]) == (401, 16)
        assert "www-authenticate" in answer.headers


def test_what_anybody_reads_as_json(public: harness.Edge, issuer: Issuer) -> None:
    """
    Every JSON path of an RPC that reads models or assets is open where everybody reads, and no other one is, whatever
    the verb. (The service behind answers with nothing; there is none for assets.)
    """
    table = scopes()
    for service in services():
        for method in service.methods:
            open_to_all = table[f"/{service.full_name}/{method.name}"] in PUBLIC
            for binding in [] if method.server_streaming else bindings(method):
                segments = {segment.name: "1" if segment.name == "version" else "none" for segment in binding.segments}
                body = b"{}" if binding.body else None
                answer = public.ask(
                    binding.path.format_map(segments), binding.verb.upper(), body, content_type="application/json"
                )
                assert (answer.status == 401) != open_to_all, (binding, answer.status)


def test_bytes_need_the_scope(edge: harness.Edge, public: harness.Edge, issuer: Issuer) -> None:
    """
    /assets/ and /static/ are closed where reading needs a token, and open where it does not. (There is no S3 here: who
    may ask hears 503.)
    """
    for path in (f"/assets/{'0' * 64}", "/static/logo.svg"):
        asked = [None, issuer.mint("registry.read"), issuer.mint("assets.read")]
        found = [ask(edge, path, token) for token in asked]
        assert [answer.status for answer in found] == [401, 403, 503]
        assert [answer.error["code"] for answer in found] == [16, 7, 14]
        assert public.ask(path).status == 503


def ask(edge: harness.Edge, path: str, token: str | None) -> harness.Answer:
    """
    A GET with a token, or without one.
    """
    return edge.ask(path) if token is None else edge.ask(path, authorization=f"Bearer {token}")


def until(condition: Callable[[], object]) -> None:
    """
    Wait for *condition*, for a while.
    """
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["renamed", "mounted"])
def test_keys_in_a_file_change_without_a_restart(how: str, echo: tuple[Echo, int], tmp_path: Path) -> None:
    """
    A file that is replaced by renaming, and a link to a folder that is moved as Kubernetes does it: tokens of the new
    key are taken, and those of the old one are not.
    """
    mount = tmp_path / "mount"
    first = _put(mount, how, "1")
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, mount / "jwks.json", refresh=1)
    with gateway(tokens, tmp_path / "state", echo[1]) as running:
        assert call(running, GET, f"Bearer {first.mint('registry.read')}") == OK
        second = _put(mount, how, "2")
        until(lambda: call(running, GET, f"Bearer {second.mint('registry.read')}") == OK)
        until(lambda: call(running, GET, f"Bearer {first.mint('registry.read')}") == INVALID)
        # Two filters look at tokens, each with keys of its own: both have fetched the new ones.
        _fetched(running, 4)
        # A file that is away for a moment takes nothing away.
        (mount / "jwks.json").unlink()
        _fetched(running, 4)
        assert running.count("http.jwks.downstream_rq_5xx")["http.jwks.downstream_rq_5xx"] > 0
        assert call(running, GET, f"Bearer {second.mint('registry.read')}") == OK


def _fetched(running: harness.Edge, times: int) -> None:
    name = "http.jwks.downstream_rq_total"
    before = running.count(name)[name]
    until(lambda: running.count(name)[name] >= before + times)


def _put(mount: Path, how: str, number: str) -> Issuer:
    mount.mkdir(exist_ok=True)
    if how == "renamed":
        return Issuer(mount / "jwks.json", number)
    # https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
    data = mount / f"..{number}"
    data.mkdir()
    made = Issuer(data / "jwks.json", number)
    (mount / "..data_tmp").symlink_to(data.name)
    (mount / "..data_tmp").replace(mount / "..data")
    if not (mount / "jwks.json").is_symlink():
        (mount / "jwks.json").symlink_to("..data/jwks.json")
    return made


@contextmanager
def published(folder: Path) -> Iterator[str]:
    """
    The files of a folder over HTTP.
    """

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_keys_at_an_address_change_without_a_restart(echo: tuple[Echo, int], tmp_path: Path) -> None:
    """
    Keys that are fetched are fetched again: the new one counts, the old one does not.
    """
    first = Issuer(tmp_path / "jwks.json", "1")
    with published(tmp_path) as address:
        tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, f"{address}/jwks.json", refresh=1)
        with gateway(tokens, tmp_path / "state", echo[1]) as running:
            until(lambda: call(running, GET, f"Bearer {first.mint('registry.read')}") == OK)
            second = Issuer(tmp_path / "jwks.json", "2")
            until(lambda: call(running, GET, f"Bearer {second.mint('registry.read')}") == OK)
            until(lambda: call(running, GET, f"Bearer {first.mint('registry.read')}") == INVALID)


def test_keys_of_another_kind_are_no_keys() -> None:
    """
    An address that holds a password, or none at all, is refused before anything runs; it is not repeated.
    """
    for wrong in ("issuer:8080", "http://me:secret@issuer/keys"):
        with pytest.raises(ValueError, match="the URL of the keys") as refused:
            Tokens(AccessMode.ON, ISSUER, AUDIENCE, wrong)
        assert "secret" not in str(refused.value)
