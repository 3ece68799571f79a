"""
Rate limits, resource limits and load shedding of the gateway.
"""

from __future__ import annotations

import select
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from embedded.s3 import S3
from gateway import limits
from gateway.access import Tokens
from gateway.limits import Limits
from gateway.tests import harness
from gateway.tests.echo import Echo, call
from services.chassis.access import AccessMode
from tests.tokens import AUDIENCE, ISSUER, Issuer

GET = "/modelyard.registry.v1.ModelService/GetModel"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"
HEALTH = "/grpc.health.v1.Health/Check"
MODELS = "/v1/namespaces/default/models"
OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def gateway(limits: Limits, state: Path, port: int, tokens: Tokens | None = None) -> Iterator[harness.Edge]:
    services = {"registry": port, "cache": port}
    with harness.gateway(S3(state, 1), state, limits=limits, tokens=tokens, services=services) as running:
        yield running


@pytest.fixture(scope="module")
def plain(echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway without tokens and without rate limits.
    """
    with gateway(Limits(message=1, connections=16), tmp_path_factory.mktemp("plain"), echo[1]) as running:
        yield running


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")


@pytest.fixture(scope="module")
def behind_proxy(
    echo: tuple[Echo, int], issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[harness.Edge]:
    """
    A gateway behind a trusted proxy, which allows each client one call per second.
    """
    tokens = Tokens(AccessMode.READ_PUBLIC, ISSUER, AUDIENCE, issuer.file)
    limits = Limits(calls_per_client=1, proxies=1)
    with gateway(limits, tmp_path_factory.mktemp("behind"), echo[1], tokens) as running:
        yield running


@pytest.fixture(scope="module")
def direct(echo: tuple[Echo, int], issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway without a proxy in front that requires tokens, and allows each client five calls per second.
    """
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file)
    with gateway(Limits(calls_per_client=5), tmp_path_factory.mktemp("direct"), echo[1], tokens) as running:
        yield running


def test_all_clients_together_have_a_rate(echo: tuple[Echo, int], issuer: Issuer, tmp_path: Path) -> None:
    """
    Calls above it get RESOURCE_EXHAUSTED with RetryInfo; JSON callers get 429 with Retry-After (RFC 6585, section 4).
    Health checks are exempt. A second later calls are accepted again. Unauthenticated calls do not count.
    """
    tokens, token = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file), f"Bearer {issuer.mint('registry.read')}"
    with gateway(Limits(calls=3), tmp_path, echo[1], tokens) as running:
        with running.connect_grpc() as channel:
            codes = [call(running, GET, None, channel)[0] for _ in range(30)]
            assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
            codes = [call(running, GET, token, channel)[0] for _ in range(20)]
        assert set(codes) == {OK, EXHAUSTED}
        # Six at once, and three for each second that the calls took.
        assert codes.count(OK) >= 6
        asked = (running.ask(MODELS, authorization=token) for _ in range(20))
        refused = [answer for answer in asked if answer.status == 429]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].error["code"] == 8
        assert refused[0].error["details"] == [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
        ]
        assert {call(running, HEALTH, None)[0] for _ in range(20)} == {OK}
        assert {running.ask("/healthz").status for _ in range(20)} == {200}
        assert _some_time_later(lambda: call(running, GET, token)[0] is OK)


def test_each_client_has_a_rate_of_its_own(behind_proxy: harness.Edge, issuer: Issuer) -> None:
    """
    A client is the subject of its token, and without a token its address. One that exhausts its rate does not affect
    others.
    """
    ann, ben = (f"Bearer {issuer.mint('registry.read', sub=name)}" for name in ("ann", "ben"))
    with behind_proxy.connect_grpc() as channel:
        assert EXHAUSTED in [call(behind_proxy, GET, ann, channel)[0] for _ in range(30)]
        assert call(behind_proxy, GET, ben, channel)[0] is OK
        assert call(behind_proxy, GET, None, channel)[0] is OK
        assert EXHAUSTED in [call(behind_proxy, GET, None, channel)[0] for _ in range(30)]


def strangers(issuer: Issuer, folder: Path) -> dict[str, str | None]:
    """
    No token, and invalid tokens.
    """
    return {
        "none": None,
        "garbage": "Bearer a.b.c",
        "of an unknown key": f"Bearer {Issuer(folder / 'other.json', 'other').mint('registry.read')}",
        "forged": f"Bearer {Issuer(folder / 'same.json').mint('registry.read', sub='ann')}",
        "expired": f"Bearer {issuer.mint('registry.read', exp=int(time.time()) - 60)}",
    }


def test_rejected_calls_have_a_rate(direct: harness.Edge, issuer: Issuer, tmp_path: Path) -> None:
    """
    Calls without a token or with an invalid one count against their address, as gRPC and as JSON, before JSON is
    parsed; they do not count against a valid token at the same address.
    """
    with direct.connect_grpc() as channel:
        for what, token in strangers(issuer, tmp_path).items():
            codes = [call(direct, GET, token, channel)[0] for _ in range(30)]
            assert codes.count(EXHAUSTED) > 15, what
            assert set(codes) <= {EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
    asked = [direct.ask(MODELS, "POST", b"{", content_type="application/json").status for _ in range(30)]
    assert asked.count(429) > 15
    assert set(asked) <= {429, 401}
    assert call(direct, GET, f"Bearer {issuer.mint('registry.read', sub='ann')}")[0] is OK


@pytest.mark.parametrize("mode", [AccessMode.ON, AccessMode.READ_PUBLIC])
def test_guessing_has_a_rate_without_any_other(
    mode: AccessMode, echo: tuple[Echo, int], issuer: Issuer, tmp_path: Path
) -> None:
    """
    Calls that will be rejected for lack of a valid token are rate-limited even without any other limit. Authorized
    calls, those with API tokens and public reads are not counted.
    """
    tokens, good = Tokens(mode, ISSUER, AUDIENCE, issuer.file), f"Bearer {issuer.mint('registry.read')}"
    with (
        gateway(Limits(refused_per_client=1), tmp_path, echo[1], tokens) as running,
        running.connect_grpc() as channel,
    ):
        codes = [call(running, GET, "Bearer a.b.c", channel)[0] for _ in range(20)]
        assert codes.count(EXHAUSTED) > 10
        for token in (good, "Bearer my_0123456789_abc"):
            assert {call(running, GET, token, channel)[0] for _ in range(20)} == {OK}
        assert {running.ask("/").status for _ in range(20)} == {200}
        if mode is AccessMode.READ_PUBLIC:
            assert {call(running, GET, None, channel)[0] for _ in range(20)} == {OK}


def test_without_memory_calls_are_shed(echo: tuple[Echo, int], tmp_path: Path) -> None:
    """
    Near its memory limit the gateway rejects calls at once with UNAVAILABLE, as JSON with 503, and still serves its
    liveness probe and metrics.
    """
    full = b"envoy_overload_envoy_overload_actions_stop_accepting_requests_active{} 1"
    with gateway(Limits(heap=1), tmp_path, echo[1]) as running:
        assert _some_time_later(lambda: full in running.watch("/metrics").body)
        assert call(running, GET, None)[0] is grpc.StatusCode.UNAVAILABLE
        answer = running.ask(MODELS)
        assert (answer.status, answer.error["code"]) == (503, 14)
        assert running.watch("/livez").status == 200
        shed = "http.gateway.downstream_rq_overload_close"
        assert running.count(shed) == {shed: 2}


def test_connections_have_a_bound(plain: harness.Edge) -> None:
    """
    Connections above the limit are closed at once; existing ones continue.
    """
    active = "http.gateway.downstream_cx_active"
    assert _some_time_later(lambda: plain.count(active) == {active: 0})
    held = [socket.create_connection(("127.0.0.1", plain.port), timeout=10) for _ in range(24)]
    closed: list[socket.socket] = []

    def closed_by_gateway() -> int:
        readable, _, _ = select.select([each for each in held if each not in closed], [], [], 0.1)
        closed.extend(each for each in readable if _is_closed(each))
        return len(closed)

    assert _some_time_later(lambda: closed_by_gateway() == 8)
    going = next(each for each in held if each not in closed)
    going.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert going.recv(12) == b"HTTP/1.1 200"
    assert closed_by_gateway() == 8
    for each in held:
        each.close()
    assert _some_time_later(lambda: _answers(plain))


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(("path", "seconds"), [(GET, 1), (CREATE, 2)], ids=["read", "write"])
def test_unary_calls_have_a_maximum_duration(slow: harness.Edge, path: str, seconds: int) -> None:
    """
    A unary call ends after the maximum duration of its kind, whatever its deadline.
    """
    began = time.monotonic()
    assert call(slow, path, None)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seconds <= time.monotonic() - began < 15


def test_a_call_that_the_gateway_ends_has_missed_its_deadline(slow: harness.Edge) -> None:
    """
    If the service does not respond in time, the gateway does: DEADLINE_EXCEEDED, also over gRPC-Web and as JSON, and
    while the request is still being sent.
    """
    frame = bytes(5)
    web = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1"}
    with ThreadPoolExecutor(3) as pool:
        whole = pool.submit(slow.ask, GET, "POST", frame, **web)
        half = pool.submit(_half, slow, GET, "content-type: application/grpc-web+proto\r\nx-grpc-web: 1")
        json = pool.submit(slow.ask, f"{MODELS}/a")
    assert (whole.result().status, whole.result().headers["grpc-status"]) == (200, "4")
    assert b"\r\ngrpc-status: 4\r\n" in half.result()
    assert (json.result().status, json.result().error["code"]) == (504, 4)


def test_a_message_that_is_far_too_large(plain: harness.Edge) -> None:
    """
    A message that the gateway does not buffer in full gets RESOURCE_EXHAUSTED.
    """
    for content_type in ("application/grpc", "application/grpc-web+proto"):
        answer = plain.ask(GET, "POST", bytes(3 << 20), content_type=content_type, te="trailers")
        assert (answer.status, answer.headers["grpc-status"]) == (200, "8")


def test_a_stream_goes_on_while_something_moves(slow: harness.Edge) -> None:
    """
    A stream may last longer than unary calls, and ends after its idle timeout.
    """
    began = time.monotonic()
    code, _ = call(slow, "/modelyard.registry.v1.ChangeService/WatchChanges", None)
    assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert 3 <= time.monotonic() - began < 15


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway with short timeouts, before a service that is slower than any of them.
    """
    state, dawdler = tmp_path_factory.mktemp("slow"), Echo(seconds=12)
    with pytest.MonkeyPatch.context() as patch, dawdler.served() as port:
        patch.setattr(limits, "GRACE", 0)
        with gateway(Limits(read_seconds=1, write_seconds=2, idle_seconds=3), state, port) as running:
            yield running


def _half(running: harness.Edge, path: str, headers: str) -> bytes:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as raw:
        raw.sendall(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\ncontent-length: 100\r\n\r\n".encode() + b"\0"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += raw.recv(65536)
        return answer


def test_envoy_headers_are_stripped_from_client_requests(plain: harness.Edge, echo: tuple[Echo, int]) -> None:
    """
    The gateway strips headers that control Envoy from client requests, and its own x-envoy headers from responses.
    """
    orders: dict[str, Any] = {
        "x_envoy_max_retries": "50",
        "x_envoy_upstream_rq_timeout_ms": "1",
        "x_envoy_force_trace": "1",
    }
    assert call(plain, GET, None, **orders)[0] is OK
    assert not [
        name for name in echo[0].told[-1] if name.startswith(("x-envoy-max", "x-envoy-upstream", "x-envoy-force"))
    ]
    assert not [name for name in plain.ask(MODELS).headers if name.startswith("x-envoy")]


def test_a_client_cannot_forge_its_address(direct: harness.Edge, behind_proxy: harness.Edge) -> None:
    """
    Only the part of x-forwarded-for that trusted proxies wrote is used: a client that forges addresses has one rate.
    """
    addresses = [f"203.0.113.{i}" for i in range(30)]
    with direct.connect_grpc() as channel:
        assert EXHAUSTED in [call(direct, GET, None, channel, x_forwarded_for=each)[0] for each in addresses]
    with behind_proxy.connect_grpc() as channel:
        assert {call(behind_proxy, GET, None, channel, x_forwarded_for=each)[0] for each in addresses} == {OK}


def test_a_limit_that_cannot_be_is_refused() -> None:
    """
    The message names the number.
    """
    with pytest.raises(ValueError, match="calls per client: 0 is less than 1"):
        Limits(calls_per_client=0)


def test_health_and_metrics_are_on_the_operations_port(plain: harness.Edge) -> None:
    """
    Operators read them at a port of their own, which exposes nothing else of the admin interface; the port for clients
    does not serve them.
    """
    assert [plain.watch(path).status for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]
    assert b"envoy_server_live" in plain.watch("/metrics").body
    assert {
        plain.watch(path).status for path in ("/", "/quitquitquit", "/config_dump", "/metrics/../quitquitquit")
    } == {404}
    assert {plain.ask(path).status for path in ("/metrics", "/readyz", "/stats/prometheus")} == {404}


def test_the_admin_interface_is_only_for_its_user(plain: harness.Edge) -> None:
    """
    The admin interface is a socket that only the gateway's user may open, and no port: no web page and no other user of
    the machine can dump tokens or stop it.
    """
    assert stat.S_IMODE(plain.admin.stat().st_mode) == 0o600
    gateways = [
        each for each in psutil.process_iter(["name", "cmdline"]) if str(plain.admin) in str(each.info["cmdline"])
    ]
    assert gateways
    family = {child for each in gateways for child in (each, *each.children(recursive=True))}
    listening = {
        found.laddr.port
        for each in family
        for found in each.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    }
    assert listening == {plain.port, plain.operations}


def _answers(running: harness.Edge) -> bool:
    try:
        return running.ask("/healthz").status == 200
    except OSError:
        return False


def _some_time_later(condition: object) -> bool:
    assert callable(condition)
    ends = time.monotonic() + 15
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True
