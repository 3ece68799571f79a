"""
The dashboards can be imported, every panel of them shows something of a suite that runs, and the gateway counts what
the objectives ask for. Tests run in the order of this file: the last one kills servers.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

import modelyard
from deploy.monitoring.__main__ import FOLDER
from deploy.monitoring.objectives import objectives
from deploy.monitoring.tests.prometheus import Prometheus, program, scraping
from embedded import suite
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.cache.v1 import cache_pb2
from modelyard.cli.scrape import parse
from modelyard.registry.v1 import models_pb2
from services.doors.tests.http_client import ask

# Starting a suite and Prometheus beside other tests takes a while.
pytestmark = pytest.mark.timeout(400)
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
PARENT = "namespaces/default"
GRID = 24


def _panels(path: Path) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return panels


def _queries() -> Iterator[Any]:
    for path in DASHBOARDS:
        for panel in _panels(path):
            for target in panel["targets"]:
                title = f"{path.stem}: {panel['title']}: {target['refId']}"
                yield pytest.param(target["expr"], id=title)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported(path: Path) -> None:
    """
    It has a name of its own and one variable, for the data source that every panel asks; panels have numbers of their
    own and do not lie on each other.
    """
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    assert dashboard["schemaVersion"] >= 36
    assert [(each["name"], each["type"], each["query"]) for each in dashboard["templating"]["list"]] == [
        ("datasource", "datasource", "prometheus")
    ]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    source = {"type": "prometheus", "uid": "${datasource}"}
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID
        mine = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine


def test_dashboards_have_names_of_their_own() -> None:
    """
    No two have the same title.
    """
    titles = sorted(json.loads(path.read_text())["title"] for path in DASHBOARDS)
    assert all(one != other for one, other in pairwise(titles))


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """
    A suite whose parts may be killed.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running
        # The data are deleted with the run.
        running.kill("postgresql")


@pytest.fixture(scope="module")
def calls(own_stack: Stack) -> Iterator[ExitStack]:
    """
    What calls the suite meanwhile, until it is closed.
    """
    with ExitStack() as resources:
        yield resources


@pytest.fixture(scope="module")
def prometheus(own_stack: Stack, calls: ExitStack) -> Iterator[Prometheus]:
    """
    A Prometheus that has scraped a suite under all kinds of calls.
    """
    program("prometheus")
    pages = {name: service.metrics for name, service in own_stack.services.items()}
    pages |= {"gateway": [own_stack.gateway_metrics], "registry": [*pages["registry"], _with_a_replica(own_stack)]}
    folder = own_stack.settings.state / "prometheus"
    folder.mkdir()
    with scraping(folder, pages) as running:
        calls.enter_context(_calling(own_stack.gateway, folder / "prometheus.yaml"))
        yield running


@pytest.mark.parametrize("query", list(_queries()))
def test_every_panel_shows_something(prometheus: Prometheus, query: str) -> None:
    """
    Each query gives at least one number on a suite that runs, once Prometheus has seen it twice.
    """
    until = time.monotonic() + 60
    while not any(each["value"][1] != "NaN" for each in prometheus.query(query)):
        assert time.monotonic() < until, query
        time.sleep(0.2)


def test_nothing_fires_on_a_suite_in_good_health(prometheus: Prometheus) -> None:
    """
    No alert is even pending, but for those that a busy machine or an empty cache may raise, once every scrape succeeds:
    on a busy machine one that takes longer than a second counts as an outage.
    """
    until = time.monotonic() + 60
    while raised := {
        name
        for each in prometheus.query("ALERTS")
        if not (name := each["metric"]["alertname"]).endswith(("Slow", "Low", "Blocked"))
    }:
        assert time.monotonic() < until, raised
        time.sleep(0.5)


def _with_a_replica(stack: Stack) -> str:
    """
    Run a registry that takes its own database for a replica, too.

    Returns:
        Its metrics page.
    """
    registry = stack.services["registry"]
    second = replace(
        registry,
        port=suite.ports(1),
        metrics_port=suite.ports(1),
        environment={
            **registry.environment,
            "MODELYARD_DATABASE_REPLICA_URLS": stack.postgres.url(user="modelyard_service"),
        },
    )
    stack.run(replace(second.part(), name="registry-replica", needs=()))
    return second.metrics[0]


@contextmanager
def _calling(gateway: str, file: Path) -> Iterator[None]:
    """
    Call the suite in all kinds of ways while the block lasts.
    """
    stop = Event()

    def work() -> None:
        with modelyard.connect(gateway) as yard:
            while not stop.wait(0.2):
                _call(yard, gateway, file)

    with ThreadPoolExecutor(1) as threads:
        calling = threads.submit(work)
        try:
            yield
        finally:
            stop.set()
            calling.result()


def _call(yard: modelyard.Client, gateway: str, file: Path) -> None:
    model = models_pb2.CreateModelRequest(parent=PARENT, model_id=f"m{time.time_ns()}", model=models_pb2.Model())
    name = yard.models.CreateModel(model).name
    for _ in range(2):
        yard.models.GetModel(models_pb2.GetModelRequest(name=name))
    assert ask(gateway, "/api/models?author=default").status == 200
    assert ask(gateway, "/default/none/resolve/main/file", "HEAD").status == 404
    yard.models.SearchModels(models_pb2.SearchModelsRequest(parent=PARENT, query="m"))
    yard.keyvalue.Set(cache_pb2.SetRequest(namespace="shared", entry=cache_pb2.Entry(key="k", value=b"v")))
    yard.keyvalue.Get(cache_pb2.GetRequest(namespace="shared", key="k"))
    with pytest.raises(grpc.RpcError):
        yard.models.GetModel(models_pb2.GetModelRequest(name=f"{PARENT}/models/none"))
    # More metadata than a call may have.
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        yard.models.GetModel(models_pb2.GetModelRequest(name=name), metadata=(("x-large", "x" * 20_000),))
    yard.upload_file(file)
    with pytest.raises(OSError, match="404"):
        urllib.request.urlopen(f"http://{gateway}/assets/{'0' * 64}", timeout=10)


def _counted(stack: Stack, name: str, **labels: str) -> float:
    with urllib.request.urlopen(stack.gateway_metrics, timeout=10) as page:  # noqa: S310 - our own page
        samples = list(parse(page.read().decode()))
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_how_long_reads_take_is_counted(own_stack: Stack) -> None:
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
    before = _counted(own_stack, f"{name}_count", **labels)
    with modelyard.connect(own_stack.gateway) as yard:
        yard.models.ListModels(models_pb2.ListModelsRequest(parent="namespaces/default"), timeout=30)
    assert _eventually(lambda: _counted(own_stack, f"{name}_count", **labels) == before + 1)
    assert _counted(own_stack, f"{name}_bucket", **labels, le="+Inf") == before + 1
    with urllib.request.urlopen(own_stack.gateway_metrics, timeout=10) as page:  # noqa: S310 - our own page
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


def test_an_outage_is_counted(own_stack: Stack, calls: ExitStack) -> None:
    """
    Without a registry, calls of any kind count as Unavailable, once each; without S3, downloads count as 5xx.
    """
    calls.close()
    list_models = {"envoy_grpc_bridge_method": "ListModels"}
    total = _counted(own_stack, "envoy_cluster_grpc_total", **list_models)
    unavailable = _counted(own_stack, "envoy_cluster_grpc_14", **list_models)
    unanswered = _counted(own_stack, "envoy_gateway_unanswered_json")
    own_stack.kill("registry")
    own_stack.kill("s3")
    with modelyard.connect(own_stack.gateway) as yard:
        request = models_pb2.CreateModelRequest(parent="namespaces/default", model_id="m", model=models_pb2.Model())
        with pytest.raises(grpc.RpcError):
            yard.models.CreateModel(request, timeout=2)
    # A list that no cache has.
    for path in ("v1/namespaces/default/models?pageSize=7", f"assets/{'0' * 64}"):
        with pytest.raises(OSError, match=r"50[0-9]"):
            urllib.request.urlopen(f"http://{own_stack.gateway}/{path}", timeout=30)
    assert _counted(own_stack, "envoy_cluster_grpc_14", envoy_grpc_bridge_method="CreateModel") >= 1
    # Whether the cache has answered, or the gateway by itself.
    listed = _counted(own_stack, "envoy_cluster_grpc_14", **list_models) - unavailable
    assert listed == _counted(own_stack, "envoy_cluster_grpc_total", **list_models) - total
    assert listed + _counted(own_stack, "envoy_gateway_unanswered_json") - unanswered == 1
    s3 = {"envoy_cluster_name": "s3"}
    assert _counted(own_stack, "envoy_cluster_upstream_rq_xx", **s3, envoy_response_code_class="5") >= 1
    assert _counted(own_stack, "envoy_cluster_upstream_rq_completed", **s3) >= 1
    (availability,) = [each for each in objectives() if each.name == "availability"]
    for name in (
        "cluster_grpc_14{",
        "cluster_grpc_total{",
        "cluster_upstream_rq_xx{",
        "cluster_upstream_rq_completed{",
    ):
        assert f"envoy_{name}" in availability.bad
    assert availability.bad.count("envoy_gateway_unanswered_json[") == 2
