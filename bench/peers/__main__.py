"""
`make bench-peers`: Modelyard beside others, on one machine, one PostgreSQL, in one run, taking turns.

* mlflow: the same five operations asked of Modelyard's gateway and of MLflow's server, with MODELS=10000 in both, and
  of the gateway with a service behind it that answers a constant: the floor.
* hosts: the whole mix on the Envoy host and on the grpcio host.
* cache, assets: `make bench-cache` beside redis-py and `make bench-assets` beside boto3, the parts that compare.

PARTS chooses; ROUNDS of SECONDS. A figure whose client was busy with nearly all of the machine is refused.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench import ghz
from bench.cache import Servers, address
from bench.form import Check, Report, Samples
from bench.grown import grown, size
from bench.peers import mlflow
from bench.peers.operations import PARENT, Operation, operations
from bench.population import draw
from embedded.postgres import Postgres
from embedded.testing import scratch
from gateway.render import descriptor_set
from modelyard.registry.v1 import models_pb2, models_pb2_grpc

MODELS = int(os.environ.get("MODELS", "10000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "4"))
CONNECTIONS = 8
_REQUIRED = {"get": 50.0, "create": 20.0}
_HOSTS = ("envoy", "grpcio")

Measure = Callable[[int], ghz.Measured]


@dataclass(slots=True)
class Bench:
    """
    What the parts use.

    Args:
        state: a folder.
        postgres: with the models.
        wanted: the operations.
        report: the results.
    """

    state: Path
    postgres: Postgres
    wanted: Sequence[Operation]
    report: Report

    @property
    def protoset(self) -> Path:
        """
        The contracts' descriptors, for ghz.
        """
        path = self.state / "contracts.binpb"
        if not path.exists():
            path.write_bytes(descriptor_set())
        return path

    def ours(self, target: str, operation: Operation) -> Measure:
        """
        Asks *target* over gRPC.
        """

        def measure(number: int) -> ghz.Measured:
            call = f"modelyard.registry.v1.{operation.method}"
            requests = operation.requests(abs(hash((target, number))))
            return ghz.run(ghz.Load(call, requests, target, self.protoset, SECONDS, operation.clients, CONNECTIONS))

        return measure


def against_mlflow(bench: Bench) -> None:
    """
    Each operation: Modelyard through its gateway, MLflow, and for reads of one model the floor.
    """
    models = list(draw(MODELS))
    servers = Servers(bench.state / "envoy", bench.postgres)
    try:
        gateway = servers.gateway("gateway", servers.cache("cache"))
        constant = servers.gateway(
            "gateway-constant", servers.plain("constant", _an_answer(servers, models[0].model_id))
        )
        with mlflow.serving(bench.postgres, models) as port:
            for operation in bench.wanted:
                lanes: dict[str, Measure] = {"Modelyard": bench.ours(gateway, operation)}
                if operation.name == "get":
                    lanes["floor: a constant"] = bench.ours(constant, operation)
                lanes["MLflow"] = _theirs(port, operation)
                rounds = alternate(operation.name, lanes)
                add(bench.report, operation.name, rounds)
                _compare(bench.report, operation.name, rounds)
    finally:
        servers.stop()


def between_hosts(bench: Bench) -> None:
    """
    Each operation on both hosts, and the mix: calls per second if they come in their shares.
    """
    both = {host: Servers(bench.state / f"host-{host}", bench.postgres, host) for host in _HOSTS}
    try:
        targets = {host: servers.gateway(f"gateway-{host}", servers.cache("cache")) for host, servers in both.items()}
        found = {
            operation.name: alternate(
                operation.name, {f"{host} host": bench.ours(targets[host], operation) for host in _HOSTS}
            )
            for operation in bench.wanted
        }
    finally:
        for servers in both.values():
            servers.stop()
    for name, rounds in found.items():
        add(bench.report, name, rounds)
    mixes = {
        host: Samples(tuple(_mix(bench.wanted, found, f"{host} host", i) for i in range(ROUNDS))) for host in _HOSTS
    }
    ratio = Samples(tuple(a / b for a, b in zip(*(mixes[host].values for host in _HOSTS), strict=True)))
    bench.report.notes.append(
        f"the mix, calls/s: envoy host {mixes['envoy'].median:,.0f}, grpcio host {mixes['grpcio'].median:,.0f}, "
        f"ratio {ratio.median:.2f} ({ratio.spread})"
    )


def of_the_cache(_bench: Bench) -> None:
    """
    `make bench-cache PARTS=compare`.
    """
    _sub("bench.cache", PARTS="compare")


def of_the_assets(_bench: Bench) -> None:
    """
    `make bench-assets` beside boto3, one size.
    """
    _sub("bench.assets", PARTS="upload,download", SIZES=str(64 << 20))


def alternate(name: str, lanes: Mapping[str, Measure]) -> dict[str, list[ghz.Measured]]:
    """
    Measure the lanes in turns; a first round warms up and does not count.

    Raises:
        SystemExit: calls failed, or a client was the bottleneck.
    """
    rounds: dict[str, list[ghz.Measured]] = {lane: [] for lane in lanes}
    for number in range(ROUNDS + 1):
        for lane in list(lanes) if number % 2 else list(lanes)[::-1]:
            measured = lanes[lane](number)
            _refuse(name, lane, measured)
            if number:
                rounds[lane].append(measured)
                print(
                    f"round {number}/{ROUNDS}  {name:<15} {lane:<18} {measured.rate:>9,.0f} calls/s"
                    f"  p50 {measured.p50_ms:8.2f}  p95 {measured.p95_ms:8.2f} ms"
                    f"  client {measured.client_cores:.2f} cores",
                    flush=True,
                )
    return rounds


def add(report: Report, name: str, rounds: Mapping[str, list[ghz.Measured]]) -> None:
    """
    A row of the table for each lane.
    """
    figures = {"calls/s": "rate", "p50 ms": "p50_ms", "p95 ms": "p95_ms", "client cores": "client_cores"}
    for lane, measures in rounds.items():
        report.add(
            f"{name}: {lane}",
            {shown: Samples(tuple(getattr(one, figure) for one in measures)) for shown, figure in figures.items()},
        )


def _compare(report: Report, name: str, rounds: Mapping[str, list[ghz.Measured]]) -> None:
    for other in [lane for lane in rounds if lane != "Modelyard"]:
        pairs = zip(rounds["Modelyard"], rounds[other], strict=True)
        ratio = Samples(tuple(one.rate / two.rate for one, two in pairs))
        report.notes.append(f"{name}: Modelyard over {other}, calls/s, by round: {ratio.median:.3g} ({ratio.spread})")
        if other == "MLflow" and name in _REQUIRED:
            report.checks.append(Check(f"{name} over MLflow's, calls/s", ratio.median, _REQUIRED[name], "x"))


def _refuse(name: str, lane: str, measured: ghz.Measured) -> None:
    if measured.failures:
        raise SystemExit(f"{name}, {lane}: {measured.failures} calls failed: {dict(measured.codes)}")
    ghz.refuse_saturated(f"{name}, {lane}", measured.client_cores)


def _mix(
    wanted: Sequence[Operation], found: Mapping[str, Mapping[str, list[ghz.Measured]]], lane: str, i: int
) -> float:
    return 1 / sum(operation.share / found[operation.name][lane][i].rate for operation in wanted)


def _theirs(port: int, operation: Operation) -> Measure:
    asks = operation.asks()
    return lambda _number: mlflow.load(port, asks, SECONDS, operation.clients)


def _an_answer(servers: Servers, model_id: str) -> bytes:
    with grpc.insecure_channel(address(servers.registry)) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        model = stub.GetModel(models_pb2.GetModelRequest(name=f"{PARENT}/models/{model_id}"))
        answer: bytes = model.SerializeToString()
    return answer


def _sub(module: str, **environment: str) -> None:
    print(f"\n{module} {environment}", flush=True)
    subprocess.run([sys.executable, "-m", module], env={**os.environ, **environment}, check=False)


_PARTS: dict[str, Callable[[Bench], None]] = {
    "mlflow": against_mlflow,
    "hosts": between_hosts,
    "cache": of_the_cache,
    "assets": of_the_assets,
}


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when every target is reached.
    """
    parts = os.environ.get("PARTS", ",".join(_PARTS)).split(",")
    if unknown := set(parts) - set(_PARTS):
        raise SystemExit(
            f"PARTS={','.join(parts)}: there is no {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}"
        )
    report = Report("bench-peers", f"make bench-peers MODELS={MODELS} ROUNDS={ROUNDS} SECONDS={SECONDS:g}")
    report.notes = [
        f"{MODELS:,} models in both registries, {ROUNDS} rounds of {SECONDS:g} s after one to warm up",
        "clients, servers and PostgreSQL share the machine's cores; one process a service, MLflow with two workers",
        "Modelyard is asked over gRPC through its gateway by ghz, MLflow over kept HTTP connections by Python threads",
    ]
    with scratch() as state, grown(MODELS, lambda text: print(text, flush=True)) as postgres:
        report.notes.append(f"Modelyard's database: {asyncio.run(size(postgres.url()))}")
        bench = Bench(state, postgres, operations(list(draw(MODELS))), report)
        for part in parts:
            if part in ("mlflow", "hosts"):
                _PARTS[part](bench)
    code = report.close()
    for part in parts:
        if part in ("cache", "assets"):
            _PARTS[part](bench)
    return code


if __name__ == "__main__":
    sys.exit(main())
