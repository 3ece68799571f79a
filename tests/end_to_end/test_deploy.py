"""
What the manifests say of the programs is what the running programs do.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

import modelyard
from deploy.checks.building import build_all
from deploy.checks.policies import network
from deploy.checks.policies.probes import PATHS
from deploy.checks.policies.watching import METRICS
from deploy.checks.suite import Suite
from deploy.tests.building import build_once
from embedded.stack import Stack
from embedded.suite import serving
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2

_PATIENCE = 30.0


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """
    The overlay that is like the embedded suite: one server of each kind, no TLS, no tokens.
    """
    return build_once(tmp_path_factory, "overlays", build_all)["local"]


@pytest.mark.parametrize("program", ["registry", "cache", "cdn"])
def test_probes_are_answered(stack: Stack, local: Suite, program: str) -> None:
    """
    Each name and path that a probe asks for is answered by the running service as a probe wants it.
    """
    pod = next(each for each in local.pods if str(each) == f"Deployment {program}")
    service = stack.services[program]
    host, port = service.addresses[0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        serving(f"{host}:{port}", pod.main[0][probe]["grpc"].get("service", ""))
        for page in (service.metrics[0].replace("/metrics", path) for path in PATHS[probe]):
            with urllib.request.urlopen(page, timeout=10) as answer:  # noqa: S310 - our own page
                assert answer.status == 200


def test_autoscalers_ask_for_what_there_is(stack: Stack) -> None:
    """
    Every metric that an autoscaler may ask for is on a page of the running suite.
    """
    pages = [stack.gateway_metrics, *(url for one in stack.services.values() for url in one.metrics)]
    text = ""
    for url in pages:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own page
            text += answer.read().decode()
    for metric in METRICS:
        assert f"\n{metric}{{" in text


def test_connections_are_those_of_the_policies(
    stack: Stack, yard: modelyard.Client, local: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The programs of a suite at work connect to exactly those that the NetworkPolicies let them connect to, but for
    connections that only a suite with access control has.
    """
    guarded = {("cdn", "registry"), ("doors", "cdn")}
    yard.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id="arrows"))
    inside, outside = network.wanted(local)
    wanted = {(each.source, each.target) for each in inside if not each.source.endswith("-migration")}
    wanted -= guarded
    seen: set[tuple[str, str]] = set()
    ends = time.monotonic() + _PATIENCE
    while seen != wanted and time.monotonic() < ends:
        _work(stack, yard, tmp_path, len(seen) + int(time.monotonic()))
        seen |= _connections(stack)
    capsys.readouterr()
    assert not outside
    assert seen == wanted


def _work(stack: Stack, yard: modelyard.Client, folder: Path, number: int) -> None:
    file = folder / "net" / "weights.bin"
    file.parent.mkdir(exist_ok=True)
    content = str(number).encode() * 100_000
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert main(["--target", stack.gateway, "versions", "push", "arrows", str(file.parent)]) == 0
    with urllib.request.urlopen(f"http://{stack.gateway}/assets/{digest}", timeout=10) as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == digest
    yard.models.GetModel(models_pb2.GetModelRequest(name="namespaces/default/models/arrows"))
    with urllib.request.urlopen(f"http://{stack.gateway}/api/models/default/arrows", timeout=10) as answer:
        assert answer.status == 200
    written = urllib.request.Request(
        f"http://{stack.gateway}/api/2.0/mlflow/registered-models/create",
        json.dumps({"name": f"arrow-{number}-{time.monotonic_ns()}"}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(written, timeout=10) as answer:  # noqa: S310 - our own gateway
        assert answer.status == 200
    with urllib.request.urlopen(f"http://{stack.gateway}/v1/namespaces/default/models", timeout=10) as answer:
        assert answer.status == 200


def _connections(stack: Stack) -> set[tuple[str, str]]:
    names = ["gateway", "registry", "cache", "cdn", "doors", "postgresql", "valkey", "s3"]
    families = {}
    for name in names:
        parent = psutil.Process(stack.pid(name))
        families[name] = [parent, *parent.children(recursive=True)]
    owners: dict[int, str] = {}
    found: list[tuple[str, int]] = []
    for name, family in families.items():
        for process in family:
            try:
                connections = process.net_connections("tcp")
            except psutil.Error:
                continue
            owners |= {each.laddr.port: name for each in connections if each.status == psutil.CONN_LISTEN}
            found += [(name, each.raddr.port) for each in connections if each.status == psutil.CONN_ESTABLISHED]
    # The embedded PostgreSQL is reached by a socket of its folder: it knows by whom.
    clients = stack.postgres.sql(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename LIKE 'modelyard_%'"
    )
    return {
        *((name, owners[port]) for name, port in found if owners.get(port, name) != name),
        *((client.removeprefix("modelyard-"), "postgresql") for client in clients.split()),
    }
