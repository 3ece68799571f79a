"""
The image's entrypoint outside of a container, with the settings of an overlay: a replica of PostgreSQL, a Valkey
Cluster, TLS, tokens, two instances of everything.

`make drill-deploy` is the long form: every instance rolls, for as long as it is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import redis

import modelyard
from deploy.checks.suite import Suite
from deploy.tests.outside.suite import Outside
from embedded.testing import scratch
from examples import weights
from examples.demo import Demo
from modelyard.registry.v1 import models_pb2
from tests.drills.rolling.load import Load

# Two of everything, and all that they need, start beside other tests.
pytestmark = [pytest.mark.own_suite, pytest.mark.drill, pytest.mark.timeout(400)]
SECONDS = float(os.environ.get("MODELYARD_DRILL_DEPLOY_SECONDS", "0"))
RATE = float(os.environ.get("MODELYARD_DRILL_DEPLOY_RATE", "60"))
#: In the long form as the overlay has it: 5 s, and `minReadySeconds` of a Deployment.
SETTINGS = {} if SECONDS else {"MODELYARD_DRAIN_DELAY_SECONDS": "1", "--drain-seconds": "3"}
READY_SECONDS = 10.0 if SECONDS else 0.5
NUMBERS = ("", "-2") if SECONDS else ("",)
ROLLED = [f"{name}{number}" for name in ("registry", "cdn", "cache", "doors", "gateway") for number in NUMBERS]


@pytest.fixture(scope="module")
def outside(overlay: Suite) -> Iterator[Outside]:
    """
    The overlay of this folder, running.
    """
    with scratch() as state:
        suite = Outside(overlay, state, SETTINGS)
        try:
            suite.start()
            yield suite
        finally:
            suite.stop()


@pytest.fixture
def yard(outside: Outside) -> Iterator[modelyard.Client]:
    """
    A client with a token that opens everything.
    """
    ca = outside.authority.certificate
    with modelyard.connect(outside.gateways[0], ca_file=ca, token_file=outside.token) as client:
        yield client


def test_the_demo_works(outside: Outside, yard: modelyard.Client, tmp_path: Path) -> None:
    """
    Every step of the demo is verified: real models, real weights, and reads that outlive all caches.
    """

    def kill_caches() -> None:
        for name in ("cache", "cache-2"):
            outside.kill(name)

    for name, step in Demo(yard, weights.fetch(), tmp_path, kill_caches).steps():
        print(name, step())  # noqa: T201 - the drill's result
    for name in ("cache", "cache-2"):
        outside.revive(name)


def test_nobody_comes_in_without_a_token(outside: Outside) -> None:
    """
    The overlay's access control is in force.
    """
    request = models_pb2.ListModelsRequest(parent="namespaces/default")
    ca = outside.authority.certificate
    with modelyard.connect(outside.gateways[0], ca_file=ca) as anybody, pytest.raises(grpc.RpcError) as caught:
        anybody.models.ListModels(request)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_replicas_answer_reads(outside: Outside, yard: modelyard.Client) -> None:
    """
    Reads past the cache are answered by the replica, too, by its own count of statements.
    """
    request = models_pb2.ListModelsRequest(parent="namespaces/default", page_size=1)
    for _ in range(20):
        yard.models.ListModels(request, metadata=(("cache-control", "no-cache"),))
    pages = [outside.page(name, "/metrics") for name in ("registry", "registry-2")]
    assert "replica" in pages[0]


def test_the_cache_is_spread_over_the_cluster(outside: Outside, yard: modelyard.Client) -> None:
    """
    Entries are on all shards of the Valkey Cluster.
    """
    # A few entries could be on two shards by chance.
    for model in yard.models.ListModels(models_pb2.ListModelsRequest(parent="namespaces/default", page_size=60)).models:
        yard.models.GetModel(models_pb2.GetModelRequest(name=model.name))
    shards = 0
    for node in outside.valkey.nodes:
        with redis.Redis(port=node.port, password=outside.valkey.password) as client:
            shards += client.info("replication")["role"] == "master" and client.dbsize() > 0
    assert shards == 3


def test_each_instance_is_the_program_itself(outside: Outside) -> None:
    """
    The entrypoint becomes the program: no other process stands between Kubernetes' signals and it.
    """
    for name in ("registry", "cdn", "cache", "doors", "gateway"):
        command = psutil.Process(outside.pid(name)).cmdline()
        assert "deploy.entrypoint" not in command
        assert f"services.{name}" in command or name in command


def test_it_says_that_it_ends_before_it_does(outside: Outside) -> None:
    """
    After SIGTERM an instance says on its page that it is not ready, and only then ends, with 0 and in its grace.
    """
    process = psutil.Process(outside.pid("registry-2"))
    assert outside.page("registry-2", "/readyz")
    process.send_signal(signal.SIGTERM)
    assert _until_not_ready(outside, "registry-2") == 503
    assert process.is_running()
    outside.gone("registry-2")
    outside.revive("registry-2")


def _until_not_ready(outside: Outside, name: str) -> int:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            outside.page(name, "/readyz")
        except urllib.error.HTTPError as error:
            return error.code
    return 200


@pytest.mark.timeout(1200)
def test_it_rolls_without_a_failed_call(outside: Outside) -> None:
    """
    Instances of everything are replaced under load: not one call fails, and a watcher is told of every creation once.
    """
    rolls, ends, took = 0, time.monotonic() + SECONDS, {}
    token = outside.token.read_text()
    with Load(outside.gateways, RATE, outside.authority.certificate, token) as load:
        time.sleep(1)
        while not rolls or time.monotonic() < ends:
            for name in ROLLED:
                began = time.monotonic()
                outside.roll(name)
                took[name] = round(time.monotonic() - began, 1)
                time.sleep(READY_SECONDS)
            rolls += 1
    found = load.outcome
    told = {name: found.watched[name] for name in found.created}
    result = {
        "rolls": rolls,
        "calls": dict(found.calls),
        "failed": len(found.failed),
        "slowest_seconds": round(found.slowest, 3),
        "created": len(found.created),
        "seconds": took,
        "why": Counter(found.failed).most_common(5),
    }
    print(json.dumps(result))  # noqa: T201 - the drill's result
    assert not found.failed, found.failed[:20]
    assert set(told.values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "what should run?"),
        (["regsitry"], "what should run? Not 'regsitry'"),
        (["migrate", "cache"], "migrate takes registry or cdn"),
        (["migrate"], "migrate takes registry or cdn"),
    ],
)
def test_wrong_arguments(outside: Outside, arguments: list[str], says: str) -> None:
    """
    Anything else than a name that there is ends with 2 and says which there are.
    """
    done = _run(outside, arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "registry, cache, cdn" in done.stderr


def test_wrong_settings(outside: Outside) -> None:
    """
    A program without its settings ends with 1 and says which are missing; so does a gateway that may write nowhere.
    """
    done = _run(outside, ["registry"])
    assert (done.returncode, "MODELYARD_DATABASE_URL is not set" in done.stderr) == (1, True)
    done = _run(outside, ["gateway", "--bucket=b"], MODELYARD_RUN="/proc/modelyard")
    assert done.returncode == 1
    assert "/proc/modelyard cannot be written" in done.stderr
    assert "MODELYARD_RUN" in done.stderr


def test_help_is_shown(outside: Outside, tmp_path: Path) -> None:
    """
    --help of everything is printed, and nothing is started.
    """
    for arguments in (["registry"], ["doors"], ["migrate", "cdn"], ["gateway"]):
        done = _run(outside, [*arguments, "--help"], MODELYARD_RUN=str(tmp_path))
        assert (done.returncode, done.stdout.startswith("usage:")) == (0, True), arguments


def _run(outside: Outside, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**outside.image.environment, **environment}
    return subprocess.run(
        [*outside.image.entrypoint, *arguments], cwd=outside.image.app, env=given,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
