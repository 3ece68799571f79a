"""
The gateway counts what the objective of availability asks for.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import grpc
import pytest

import modelyard
from deploy.monitoring.objectives import objectives
from modelyard.cli.scraped import parse
from modelyard.registry.v1 import models_pb2
from services.embedded.stack import Stack, StackSettings
from services.embedded.testing import scratch


@pytest.fixture
def stack() -> Iterator[Stack]:
    """
    A suite of which parts may be killed.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running


def _counted(stack: Stack, name: str, **labels: str) -> float:
    with urllib.request.urlopen(stack.gateway_metrics, timeout=10) as page:  # noqa: S310 - our own page
        samples = list(parse(page.read().decode()))
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_an_outage_is_counted(stack: Stack) -> None:
    """
    Without a registry, calls of any kind count as Unavailable, once each; without S3, downloads count as 5xx.
    """
    stack.kill("registry")
    stack.kill("s3")
    with modelyard.connect(stack.gateway) as yard:
        request = models_pb2.CreateModelRequest(parent="namespaces/default", model_id="m", model=models_pb2.Model())
        with pytest.raises(grpc.RpcError):
            yard.models.CreateModel(request, timeout=2)
    for path in ("v1/namespaces/default/models", f"assets/{'0' * 64}"):
        with pytest.raises(OSError, match=r"50[0-9]"):
            urllib.request.urlopen(f"http://{stack.gateway}/{path}", timeout=30)
    listed = {"envoy_grpc_bridge_method": "ListModels"}
    assert _counted(stack, "envoy_cluster_grpc_14", envoy_grpc_bridge_method="CreateModel") >= 1
    assert (
        _counted(stack, "envoy_cluster_grpc_14", **listed) == _counted(stack, "envoy_cluster_grpc_total", **listed) == 1
    )
    s3 = {"envoy_cluster_name": "s3"}
    assert _counted(stack, "envoy_cluster_upstream_rq_xx", **s3, envoy_response_code_class="5") >= 1
    assert _counted(stack, "envoy_cluster_upstream_rq_completed", **s3) >= 1
    (availability,) = [each for each in objectives() if each.name == "availability"]
    for name in ("grpc_14", "grpc_total", "upstream_rq_xx", "upstream_rq_completed"):
        assert f"envoy_cluster_{name}{{" in availability.bad
