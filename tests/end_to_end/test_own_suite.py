"""
A suite of its own, which exports its spans and whose cache is killed: traces through all services, reads while the
cache is down, and the demo.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch, until_the_cache_answers
from examples import demo
from modelyard.registry.v1 import models_pb2, namespaces_pb2, versions_pb2
from modelyard.registry.v1.models_pb2_grpc import ModelServiceStub
from services.chassis.tests.otlp_collector import CLIENT, SERVER, Collector, Found, collecting

pytestmark = pytest.mark.own_suite
SPAN = "00f067aa0ba902b7"
NAMESPACE = "namespaces/own-suite"
MODEL = f"{NAMESPACE}/models/traced"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def started(collector: Collector) -> Iterator[Stack]:
    """
    A suite that exports its spans.
    """
    environment = {"MODELYARD_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0, environment=environment)) as stack:
        with modelyard.connect(stack.gateway) as client:
            client.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="own-suite"))
            client.models.CreateModel(models_pb2.CreateModelRequest(parent=NAMESPACE, model_id="traced"))
        yield stack
        stack.kill("s3")


@pytest.fixture
def suite(started: Stack) -> Stack:
    """
    The suite with its cache, which the test before may have killed.
    """
    if "cache" not in started.pids():
        started.revive("cache")
    with modelyard.connect(started.gateway) as client:
        until_the_cache_answers(client)
    return started


@pytest.fixture
def traced(suite: Stack) -> Iterator[modelyard.Client]:
    """
    A client of the suite.
    """
    with modelyard.connect(suite.gateway) as client:
        yield client


def spans(collector: Collector, trace_id: str, names: set[str]) -> dict[tuple[str, int], Found]:
    """
    The spans of a trace by program and kind, when those with *names* have come.
    """
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        found = collector.of(trace_id)
        if names <= {f"{span.program} {span.name.rpartition('/')[2]} {span.kind}" for span in found}:
            return {(f"{span.program} {span.name.rpartition('/')[2]}", span.kind): span for span in found}
        time.sleep(0.05)
    pytest.fail(f"not all of {names} in {collector.of(trace_id)}")


def test_a_read_through_the_cache(collector: Collector, traced: modelyard.Client) -> None:
    """
    The caller's trace goes through the gateway and the cache to the registry, each span below the one before.
    """
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    metadata = (("traceparent", f"00-{trace_id}-{SPAN}-01"), ("cache-control", "no-cache"))
    traced.models.GetModel(models_pb2.GetModelRequest(name=MODEL), metadata=metadata)
    wanted = {f"services.cache GetModel {kind}" for kind in (SERVER, CLIENT)} | {f"services.registry GetModel {SERVER}"}
    found = spans(collector, trace_id, wanted)
    front, asking = found["services.cache GetModel", SERVER], found["services.cache GetModel", CLIENT]
    assert front.parent == SPAN
    assert asking.parent == front.span_id
    # The gateway may have asked the registry as well, where the cache took long.
    ends = time.monotonic() + 20
    while asking.span_id not in {span.parent for span in collector.of(trace_id) if span.kind == SERVER}:
        assert time.monotonic() < ends, "the registry's call is not below the cache's"
        time.sleep(0.05)
    # The request id, too: it was made on the way.
    assert len({span.attributes["modelyard.request_id"] for key, span in found.items() if key[1] == SERVER}) == 1


def test_a_write_that_needs_the_asset_service(collector: Collector, traced: modelyard.Client, tmp_path: Path) -> None:
    """
    What the registry asks of the asset service belongs to the trace of the write.
    """
    trace_id = "a3ce929d0e0e47364bf92f3577b34da6"
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    asset = traced.upload_file(file)
    artifact = versions_pb2.Artifact(path="weights", sha256=asset.sha256, size_bytes=asset.size_bytes)
    draft = versions_pb2.Version(artifacts=[artifact])
    version = traced.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=MODEL, version=draft))
    metadata = (("traceparent", f"00-{trace_id}-{SPAN}-01"),)
    traced.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version.name), metadata=metadata)
    wanted = {f"services.registry Pin {CLIENT}", f"services.cdn Pin {SERVER}"}
    found = spans(collector, trace_id, wanted | {f"services.registry FinalizeVersion {SERVER}"})
    write, asking = found["services.registry FinalizeVersion", SERVER], found["services.registry Pin", CLIENT]
    assert write.parent == SPAN
    assert asking.parent == write.span_id
    assert found["services.cdn Pin", SERVER].parent == asking.span_id


def test_not_one_read_fails_when_the_cache_dies(suite: Stack) -> None:
    """
    Reads under way while the cache is killed, and after, are answered by the origin. (But for one whose answer had
    begun to arrive: a proxy cannot take that back, and gRPC says so.)
    """
    with modelyard.connect(suite.gateway) as yard:
        created = yard.models.CreateModel(
            models_pb2.CreateModelRequest(parent=NAMESPACE, model_id="m", model=models_pb2.Model())
        )
        request = models_pb2.GetModelRequest(name=created.name)
        # Without the client's own retries: it is the gateway that goes elsewhere.
        with grpc.insecure_channel(suite.gateway, [("grpc.enable_retries", 0)]) as channel:
            stub = ModelServiceStub(channel)
            calls: list[Any] = [stub.GetModel.future(request, timeout=10) for _ in range(200)]
            suite.kill("cache")
            calls += [stub.GetModel.future(request, timeout=10) for _ in range(200)]
            cut = [call for call in calls if call.code() is not grpc.StatusCode.OK]
            assert all("RST_STREAM" in call.details() and call.initial_metadata() for call in cut), cut
            assert len(cut) < 5
            assert {call.result().name for call in calls if call not in cut} == {created.name}


def test_the_demo_verifies_every_step(
    suite: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    `make demo` does the whole main job on real data and exits 0 only because every step was verified.
    """

    class Running:
        """
        The suite that is running already.
        """

        gateway = suite.gateway
        kill = suite.kill

        def __init__(self, settings: StackSettings) -> None:
            self.start = self.stop = lambda: None

    monkeypatch.setattr(demo, "Stack", Running)
    code = demo.main()
    shown = capsys.readouterr()
    assert code == 0, shown.out + shown.err
    assert "10 steps verified" in shown.out
