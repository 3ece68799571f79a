"""
`make bench-hosts`: the same GetModel, served by the Envoy host and by the grpcio host.

One process each, the same database, the same client, in turns over several rounds. Beside it a service that answers
with a constant of the same size, which shows how much of a call is the host's. ROUNDS and SECONDS (of each) can be set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import modelyard
from bench import ghz
from bench.form import Check, Report, Samples
from embedded import suite
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from examples import timm
from gateway.render import descriptor_set

HOSTS = ("envoy", "grpcio")
CONTENDERS = ("envoy", "grpcio", "envoy, constant", "grpcio, constant")
CALL = "modelyard.registry.v1.ModelService/GetModel"
PARENT = "namespaces/default"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "4"))
CONCURRENCY, CONNECTIONS = 64, 8
REQUIRED_RATIO = 5.0


@contextmanager
def registries() -> Iterator[tuple[dict[str, str], Path]]:
    """
    The registry under each host on one PostgreSQL with the timm models in it: addresses by host, and the descriptors.
    """
    with scratch() as state:
        stack = Stack(StackSettings(state=state, gateway_port=0, parts=["registry-migration"]))
        stack.start()
        try:
            addresses = {}
            for host in HOSTS:
                service = replace(
                    stack.services["registry"], host=host, port=suite.ports(1), metrics_port=suite.ports(1), needs=()
                )
                stack.run(replace(service.part(), name=f"registry-{host}"))
                addresses[host] = f"127.0.0.1:{service.port}"
                constant = replace(service, port=suite.ports(1), metrics_port=suite.ports(1)).part()
                argv = [sys.executable, "-m", "bench.constant"]
                stack.run(replace(constant, name=f"constant-{host}", argv=argv))
                addresses[f"{host}, constant"] = (
                    f"127.0.0.1:{constant.environment['MODELYARD_LISTEN'].rpartition(':')[2]}"
                )
            with modelyard.connect(addresses["envoy"]) as yard:
                models = sum(answer.created_models for answer in yard.imports.ImportModels(timm.batches(PARENT)))
            if models != len(timm.entries()):
                raise SystemExit(f"only {models} models were imported")
            descriptors = state / "contracts.binpb"
            descriptors.write_bytes(descriptor_set())
            yield addresses, descriptors
        finally:
            stack.stop()


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when the ratio is reached.
    """
    names: list[Mapping[str, object]] = [{"name": f"{PARENT}/models/{entry.model}"} for entry in timm.entries()]
    report = Report("bench-hosts", "make bench-hosts")
    rounds: dict[str, list[ghz.Measured]] = {contender: [] for contender in CONTENDERS}
    with registries() as (addresses, descriptors):
        for number in range(ROUNDS + 1):
            for host in CONTENDERS if number % 2 else reversed(CONTENDERS):
                load = ghz.Load(CALL, names, addresses[host], descriptors, SECONDS, CONCURRENCY, CONNECTIONS)
                measured = ghz.run(load)
                if measured.failures:
                    raise SystemExit(f"{host}: {measured.failures} calls failed: {dict(measured.codes)}")
                if number == 0:
                    continue  # to warm up
                rounds[host].append(measured)
                print(
                    f"round {number}/{ROUNDS}  {host:<16} {measured.rate:>9,.0f} calls/s  p99 {measured.p99_ms:6.2f} ms"
                    f"  client {measured.client_cores:.2f} cores",
                    flush=True,
                )
    for host, measures in rounds.items():
        report.add(
            f"{host}",
            {
                "calls/s": Samples(tuple(one.rate for one in measures)),
                "p50 ms": Samples(tuple(one.p50_ms for one in measures)),
                "p99 ms": Samples(tuple(one.p99_ms for one in measures)),
                "client cores": Samples(tuple(one.client_cores for one in measures)),
            },
        )
    ratios, bare = (ratio(rounds, "envoy", "grpcio"), ratio(rounds, "envoy, constant", "grpcio, constant"))
    report.notes = [
        f"GetModel of {len(names):,} timm models in turn, one process a host, one PostgreSQL, "
        f"{CONCURRENCY} calls in flight on {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s",
        "client, servers and PostgreSQL share the machine's cores",
        f"ratio by round: {ratios.spread}",
        f"of the constant, where a call is the host's alone: {bare.median:.2f} x ({bare.spread})",
    ]
    report.checks = [Check("envoy host over grpcio host, calls/s", ratios.median, REQUIRED_RATIO, "x")]
    return report.close()


def ratio(rounds: Mapping[str, list[ghz.Measured]], fast: str, slow: str) -> Samples:
    """
    How many times the calls per second, round by round.
    """
    pairs = zip(rounds[fast], rounds[slow], strict=True)
    return Samples(tuple(one.rate / other.rate for one, other in pairs))


if __name__ == "__main__":
    sys.exit(main())
