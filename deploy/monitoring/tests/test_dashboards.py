"""
The dashboards can be imported, and every panel of them shows something of a suite that runs.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

import modelyard
from deploy.monitoring.__main__ import FOLDER
from deploy.monitoring.tests.prometheus import Prometheus, program, scraping
from embedded import suite
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.cache.v1 import cache_pb2
from modelyard.registry.v1 import models_pb2

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
def prometheus() -> Iterator[Prometheus]:
    """
    A Prometheus that has scraped a suite under all kinds of calls.
    """
    program("prometheus")
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as stack:
        pages = {name: service.metrics for name, service in stack.services.items()}
        pages |= {"gateway": [stack.gateway_metrics], "registry": [*pages["registry"], _with_a_replica(stack)]}
        folder = state / "prometheus"
        folder.mkdir()
        with scraping(folder, pages) as running, _calling(stack.gateway, folder / "prometheus.yaml"):
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
    No alert is even pending, but for those that a busy machine or an empty cache may raise.
    """
    raised = {each["metric"]["alertname"] for each in prometheus.query("ALERTS")}
    assert not {name for name in raised if not name.endswith(("Slow", "Low", "Blocked"))}


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
