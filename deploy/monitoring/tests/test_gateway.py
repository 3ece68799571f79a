"""
The gateway counts what the objective of availability asks for.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import pytest

import modelyard
from deploy.monitoring.objectives import objectives
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.cli.scrape import parse
from modelyard.registry.v1 import models_pb2


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """
    A suite whose parts may be killed, and whose counters count only the calls of this module.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running


def _counted(stack: Stack, name: str, **labels: str) -> float:
    with urllib.request.urlopen(stack.gateway_metrics, timeout=10) as page:  # noqa: S310 - our own page
        samples = list(parse(page.read().decode()))
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_how_long_reads_take_is_counted(stack: Stack) -> None:
    """
    By method, with a bucket at the bound of the objective, whatever host serves them.
    """
    (slow,) = [each for each in objectives() if each.name == "gateway-get"]
    (bound,) = re.findall(r'le="([^"]+)"', slow.bad)
    name = "envoy_cluster_grpc_upstream_rq_time"
    labels = {
        "envoy_grpc_bridge_method": "ListModels",
        "envoy_grpc_bridge_service": "modelyard_registry_v1_ModelService",
    }
    before = _counted(stack, f"{name}_count", **labels)
    with modelyard.connect(stack.gateway) as yard:
        yard.models.ListModels(models_pb2.ListModelsRequest(parent="namespaces/default"), timeout=30)
    assert _eventually(lambda: _counted(stack, f"{name}_count", **labels) == before + 1)
    assert _counted(stack, f"{name}_bucket", **labels, le="+Inf") == before + 1
    with urllib.request.urlopen(stack.gateway_metrics, timeout=10) as page:  # noqa: S310 - our own page
        assert f'le="{bound}"' in page.read().decode()
    assert f"{name}_bucket{{" in slow.bad
    assert f"{name}_count{{" in slow.bad


def _eventually(holds: Callable[[], bool]) -> bool:
    # Envoy merges its threads' histograms every five seconds.
    until = time.monotonic() + 30
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def test_an_outage_is_counted(stack: Stack) -> None:
    """
    Without a registry, calls of any kind count as Unavailable, once each; without S3, downloads count as 5xx.
    """
    list_models = {"envoy_grpc_bridge_method": "ListModels"}
    total = _counted(stack, "envoy_cluster_grpc_total", **list_models)
    unavailable = _counted(stack, "envoy_cluster_grpc_14", **list_models)
    unanswered = _counted(stack, "envoy_gateway_unanswered_json")
    stack.kill("registry")
    stack.kill("s3")
    with modelyard.connect(stack.gateway) as yard:
        request = models_pb2.CreateModelRequest(parent="namespaces/default", model_id="m", model=models_pb2.Model())
        with pytest.raises(grpc.RpcError):
            yard.models.CreateModel(request, timeout=2)
    # A list that no cache has.
    for path in ("v1/namespaces/default/models?pageSize=7", f"assets/{'0' * 64}"):
        with pytest.raises(OSError, match=r"50[0-9]"):
            urllib.request.urlopen(f"http://{stack.gateway}/{path}", timeout=30)
    assert _counted(stack, "envoy_cluster_grpc_14", envoy_grpc_bridge_method="CreateModel") >= 1
    # Whether the cache has answered, or the gateway by itself.
    listed = _counted(stack, "envoy_cluster_grpc_14", **list_models) - unavailable
    assert listed == _counted(stack, "envoy_cluster_grpc_total", **list_models) - total
    assert listed + _counted(stack, "envoy_gateway_unanswered_json") - unanswered == 1
    s3 = {"envoy_cluster_name": "s3"}
    assert _counted(stack, "envoy_cluster_upstream_rq_xx", **s3, envoy_response_code_class="5") >= 1
    assert _counted(stack, "envoy_cluster_upstream_rq_completed", **s3) >= 1
    (availability,) = [each for each in objectives() if each.name == "availability"]
    for name in (
        "cluster_grpc_14{",
        "cluster_grpc_total{",
        "cluster_upstream_rq_xx{",
        "cluster_upstream_rq_completed{",
    ):
        assert f"envoy_{name}" in availability.bad
    assert availability.bad.count("envoy_gateway_unanswered_json[") == 2
