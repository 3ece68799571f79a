"""
`make bench-doors`: models through the doors, with the clients that people have, beside the ways without them.

(download) `hf download`'s library call for one large file beside boto3 straight from the same S3, both into a file.
(many) A model of FILES small files with `snapshot_download`, in files per second. (head) HEAD of a file through the
Hub's door beside GetVersion over gRPC, both through the gateway. (mlflow) GET of a registered model through the door
beside MLflow's own server (bench/peers/mlflow.py). (servers) The doors' application on uvicorn and on granian, the same
requests.

Settings: PARTS=download,many,head,mlflow,servers; SIZE of the large file in bytes; FILES; ROUNDS of SECONDS; MODELS in
both registries of (mlflow). Files are made in TMPDIR.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import modelyard
from bench import ghz
from bench.form import Check, Report, Samples
from bench.http_load import requests
from bench.peers import mlflow
from bench.population import draw
from bench.transfer_clients import Crew, Places, crew
from embedded.parts import Part, free_port
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from gateway.render import descriptor_set
from modelyard.registry.v1 import models_pb2, namespaces_pb2, versions_pb2
from tools.environments import packages, python_with

SIZE = int(os.environ.get("SIZE", str(2**30)))
FILES = int(os.environ.get("FILES", "500"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "4"))
MODELS = int(os.environ.get("MODELS", "1000"))
NAMESPACE: Final = "bench"
CONNECTIONS: Final = 16
_BLOCK: Final = 1 << 20
_GRANIAN: Final = ("granian==2.8.9",)
#: A program of the client's environment: the seconds of a download, and those of its own processor time.
_CLIENT: Final = """
import json, sys, tempfile, time
from huggingface_hub import hf_hub_download, snapshot_download
given = json.load(sys.stdin)
with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
    began, busy = time.perf_counter(), time.process_time()
    if given["file"]:
        hf_hub_download(given["repository"], given["file"], cache_dir=folder)
    else:
        snapshot_download(given["repository"], cache_dir=folder)
    print(time.perf_counter() - began, time.process_time() - busy)
"""


@dataclass(frozen=True, slots=True)
class Yard:
    """
    What the parts use.

    Args:
        stack: the whole suite, without access control.
        state: a folder.
        crew: a client of S3.
        report: the results.
        busy: seconds of processor time that the Hub's client took for a model, by download.
    """

    stack: Stack
    state: Path
    crew: Crew
    report: Report
    busy: dict[str, list[float]] = field(default_factory=dict)

    def store(self, size: int, count: int) -> list[str]:
        """
        The names of new assets of *size* bytes each.
        """
        path, block = self.state / "stored", os.urandom(min(size, _BLOCK))
        names = []
        with modelyard.connect(self.stack.gateway) as yard:
            for _ in range(count):
                with path.open("wb") as file:
                    file.write(os.urandom(16))
                    for start in range(16, size, len(block)):
                        file.write(block[: size - start])
                names.append(yard.upload_file(path).name)
        path.unlink()
        return names

    def publish(self, model: str, files: Mapping[str, tuple[str, int]]) -> str:
        """
        A version of a new model, and its name.

        Args:
            files: digest and size of stored assets by path.
        """
        parent = f"namespaces/{NAMESPACE}"
        with modelyard.connect(self.stack.gateway) as yard:
            made = yard.models.CreateModel(
                models_pb2.CreateModelRequest(parent=parent, model_id=model, model=models_pb2.Model(owner="bench"))
            )
            artifacts = [
                versions_pb2.Artifact(path=path, sha256=digest, size_bytes=size)
                for path, (digest, size) in files.items()
            ]
            draft = versions_pb2.CreateVersionRequest(
                parent=made.name, version=versions_pb2.Version(artifacts=artifacts)
            )
            version: str = yard.versions.CreateVersion(draft).name
            yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version))
        return version

    def client(self, model: str, file: str = "") -> float:
        """
        The seconds that the Hub's client takes to download a file, or the whole model; its processor time is noted.
        """
        given = {"repository": f"{NAMESPACE}/{model}", "file": file, "folder": str(self.state)}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.state),
            "HF_ENDPOINT": f"http://{self.stack.gateway}",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        ran = subprocess.run(
            [str(python_with("hub2")), "-c", _CLIENT],
            input=json.dumps(given), env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds, busy = map(float, ran.stdout.split())
        self.busy.setdefault(model, []).append(busy)
        return seconds


def download(yard: Yard) -> None:
    """
    One large file through the Hub's door and straight from S3, in turns.
    """
    names = yard.store(SIZE, 1)
    yard.publish("large", {"weights": (names[0].removeprefix("assets/"), SIZE)})

    def ours() -> float:
        return SIZE / yard.client("large", "weights")

    def theirs() -> float:
        return yard.crew.move(1, SIZE, "get", names).rate

    rounds = _turns({"hf download": ours, "boto3 direct": theirs}, "MiB/s", 2**20)
    _ratio(yard.report, f"hf download over boto3, {SIZE / 2**20:,.0f} MiB", rounds, "hf download", "boto3 direct", 0.9)
    _add(yard.report, "download", "MiB/s", rounds, 2**20)


def many(yard: Yard) -> None:
    """
    Many small files with the Hub's client.
    """
    names = yard.store(1024, FILES)
    files = {f"d{n % 10}/f{n:04}": (name.removeprefix("assets/"), 1024) for n, name in enumerate(names)}
    yard.publish("many", files)
    rounds = _turns({"snapshot_download": lambda: FILES / yard.client("many")}, "files/s")
    _add(yard.report, "many", "files/s", rounds)
    found = rounds["snapshot_download"].median
    own = Samples(tuple(1000 * each / FILES for each in yard.busy["many"])).median
    yard.report.notes.append(f"many: the client's own processor time: {own:.1f} ms a file")
    yard.report.checks.append(Check(f"snapshot_download of {FILES} small files", found, 200, "files/s"))


def head(yard: Yard) -> None:
    """
    What a client asks before it downloads, beside the read of a version over gRPC.
    """
    name = _small(yard, "small")
    protoset = yard.state / "bench.binpb"
    protoset.write_bytes(descriptor_set())
    load = ghz.Load(
        "modelyard.registry.v1.VersionService/GetVersion", {"name": name}, yard.stack.gateway, protoset, SECONDS,
        CONNECTIONS, CONNECTIONS,
    )  # fmt: skip
    with urllib.request.urlopen(f"http://{yard.stack.gateway}/api/models/{NAMESPACE}/small", timeout=10) as answer:
        commit = json.load(answer)["sha"]
    paths = {
        "HEAD, main": f"/{NAMESPACE}/small/resolve/main/config.json",
        "HEAD, commit": f"/{NAMESPACE}/small/resolve/{commit}/config.json",
    }
    lanes: dict[str, Callable[[], ghz.Measured]] = {
        lane: lambda path=path: requests(yard.stack.gateway, "HEAD", path, SECONDS, CONNECTIONS)  # type: ignore[misc]
        for lane, path in paths.items()
    }
    lanes["GetVersion over gRPC"] = lambda: ghz.run(load)
    _calls(yard.report, "head", lanes)


def registered_models(yard: Yard) -> None:
    """
    A registered model through the door of MLflow, and from MLflow's own server.
    """
    first = f"http://{yard.stack.gateway}/api/2.0/mlflow/registered-models/get?name=none"
    try:
        with urllib.request.urlopen(first, timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if json.load(error).get("error_code") == "ENDPOINT_NOT_FOUND":
            yard.report.notes.append("mlflow: the door does not serve it")
            return
    models = list(draw(MODELS))
    with modelyard.connect(yard.stack.gateway) as client:
        for each in models:
            model = models_pb2.Model(description=each.description, labels=each.labels)
            client.models.CreateModel(
                models_pb2.CreateModelRequest(parent="namespaces/default", model_id=each.model_id, model=model)
            )

    def asks() -> Iterator[mlflow.Ask]:
        while True:
            for each in models:
                yield mlflow.Ask("registered-models/get", {"name": each.model_id})

    port = int(yard.stack.gateway.rpartition(":")[2])
    with mlflow.serving(yard.stack.postgres, models) as theirs:
        lanes = {
            "Modelyard's door": lambda: mlflow.load(port, asks(), SECONDS, CONNECTIONS),
            "MLflow's server": lambda: mlflow.load(theirs, asks(), SECONDS, CONNECTIONS),
        }
        rounds = _calls(yard.report, "mlflow", lanes)
    ours, other = rounds
    _ratio(yard.report, "get_registered_model over MLflow's server", rounds, ours, other, 10.0)


def servers(yard: Yard) -> None:
    """
    The doors' application on two servers, without the gateway: one process with one event loop each.
    """
    _small(yard, "served")
    folder = packages("granian", _GRANIAN)
    ports = {"uvicorn": free_port(), "granian": free_port()}
    target = {
        f"MODELYARD_{name.upper()}_TARGET": ",".join(f"{host}:{port}" for host, port in service.addresses)
        for name, service in yard.stack.services.items()
        if name != "doors"
    }
    common = {**target, "PATH": os.environ["PATH"], "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{folder}"}
    app = "bench.doors_app:app"
    argv = {
        "uvicorn": [
            *("-m", "uvicorn", app, "--port", str(ports["uvicorn"]), "--http", "httptools", "--loop", "uvloop"),
            *("--lifespan", "off", "--no-access-log", "--log-level", "warning"),
        ],
        "granian": [
            *("-m", "granian", app, "--interface", "asginl", "--port", str(ports["granian"]), "--loop", "uvloop"),
            *("--workers", "1", "--no-ws", "--log-level", "warning", "--http", "1"),
        ],
    }
    path = f"/{NAMESPACE}/served/resolve/main/config.json"
    supervisor = Supervisor(yard.state / "servers")
    try:
        supervisor.start(
            [
                Part(
                    name=name,
                    argv=[sys.executable, *argv[name]],
                    ready=_answering(f"http://127.0.0.1:{port}{path}"),
                    environment=common,
                    needs=[],
                )
                for name, port in ports.items()
            ]
        )
        lanes = {
            name: lambda port=port: requests(f"127.0.0.1:{port}", "HEAD", path, SECONDS, CONNECTIONS)
            for name, port in ports.items()
        }
        rounds = _calls(yard.report, "servers", lanes)
    finally:
        supervisor.stop()
    _ratio(yard.report, "uvicorn over granian, requests/s", rounds, "uvicorn", "granian", None)


def _small(yard: Yard, model: str) -> str:
    (name,) = yard.store(1024, 1)
    return yard.publish(model, {"config.json": (name.removeprefix("assets/"), 1024)})


def _answering(url: str) -> Callable[[], None]:
    def ready() -> None:
        asked = urllib.request.Request(url, method="HEAD")  # noqa: S310 - our own, on loopback
        with urllib.request.urlopen(asked, timeout=2) as answer:  # noqa: S310
            answer.read()

    return ready


def _turns(lanes: Mapping[str, Callable[[], float]], unit: str, scale: float = 1.0) -> dict[str, Samples]:
    """
    Measure the lanes in turns; a first round warms up and does not count.
    """
    found: dict[str, list[float]] = {lane: [] for lane in lanes}
    for number in range(ROUNDS + 1):
        for lane in list(lanes) if number % 2 else list(lanes)[::-1]:
            measured = lanes[lane]()
            if number:
                found[lane].append(measured)
                print(f"round {number}/{ROUNDS}  {lane:<24} {measured / scale:>9,.1f} {unit}", flush=True)
    return {lane: Samples(tuple(values)) for lane, values in found.items()}


def _calls(report: Report, part: str, lanes: Mapping[str, Callable[[], ghz.Measured]]) -> dict[str, Samples]:
    """
    Measure calls in turns, and add each lane to the table.

    Raises:
        SystemExit: calls failed.
    """
    measured: dict[str, list[ghz.Measured]] = {lane: [] for lane in lanes}
    for number in range(ROUNDS + 1):
        for lane in list(lanes) if number % 2 else list(lanes)[::-1]:
            one = lanes[lane]()
            if one.failures:
                raise SystemExit(f"{part}, {lane}: {one.failures} calls failed: {dict(one.codes)}")
            if number:
                measured[lane].append(one)
                print(
                    f"round {number}/{ROUNDS}  {lane:<24} {one.rate:>9,.0f} calls/s"
                    f"  p50 {one.p50_ms:8.2f}  p99 {one.p99_ms:8.2f} ms  client {one.client_cores:.2f} cores",
                    flush=True,
                )
    for lane, found in measured.items():
        report.notes.append(
            f"{part}: {lane}: {Samples(tuple(one.rate for one in found)).median:,.0f} calls/s, "
            f"p50 {Samples(tuple(one.p50_ms for one in found)).median:.2f} ms, "
            f"p99 {Samples(tuple(one.p99_ms for one in found)).median:.2f} ms"
        )
    rates = {lane: Samples(tuple(one.rate for one in found)) for lane, found in measured.items()}
    _add(report, part, "calls/s", rates)
    return rates


def _add(report: Report, part: str, unit: str, rounds: Mapping[str, Samples], scale: float = 1.0) -> None:
    for lane, samples in rounds.items():
        scaled = Samples(tuple(value / scale for value in samples.values))
        report.add(f"{part}: {lane}, {unit}", {"measured": scaled})


def _ratio(
    report: Report, text: str, rounds: Mapping[str, Samples], ours: str, theirs: str, required: float | None
) -> None:
    pairs = zip(rounds[ours].values, rounds[theirs].values, strict=True)
    ratio = Samples(tuple(one / other for one, other in pairs))
    report.notes.append(f"{text}, by round: {ratio.median:.2f} x ({ratio.spread})")
    if required is not None:
        report.checks.append(Check(text, ratio.median, required, "x"))


_PARTS: Final[Mapping[str, Callable[[Yard], None]]] = {
    "download": download,
    "many": many,
    "head": head,
    "mlflow": registered_models,
    "servers": servers,
}


@contextmanager
def yard_with(report: Report) -> Iterator[Yard]:
    """
    The suite and a client of its S3.
    """
    with scratch() as state:
        settings = StackSettings(state=state / "suite", gateway_port=0)
        settings.state.mkdir()
        with Stack(settings) as stack:
            with modelyard.connect(stack.gateway) as client:
                client.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=NAMESPACE))
            folder = state / "clients"
            folder.mkdir()
            s3 = stack.s3
            places = Places(stack.gateway, s3.endpoint, s3.access_key_file, s3.secret_key_file, folder)
            with crew(places, 1) as clients:
                yield Yard(stack, state, clients, report)


def main(parts: Sequence[str] = ()) -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when every target is reached.
    """
    parts = parts or os.environ.get("PARTS", ",".join(_PARTS)).split(",")
    if unknown := set(parts) - set(_PARTS):
        raise SystemExit(f"PARTS: there is no {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    report = Report("bench-doors", f"make bench-doors SIZE={SIZE} FILES={FILES} ROUNDS={ROUNDS} SECONDS={SECONDS:g}")
    report.notes = [
        f"the whole suite with one worker of each service; {ROUNDS} rounds after one to warm up, in turns",
        "clients, services, PostgreSQL and S3 share the machine's cores and its disk",
        "downloads are huggingface_hub's own, each in a new process whose imports do not count, into an empty cache",
    ]
    began = time.monotonic()
    with yard_with(report) as found:
        for name in parts:
            print(f"— {name} ({time.monotonic() - began:.0f} s)", flush=True)
            _PARTS[name](found)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
