"""
`make bench-instrumentation`: what measuring costs. The same empty call with all that a service measures of its calls
and without, in turns over several rounds: one process each on the Envoy host, the same client.

ROUNDS and SECONDS (of each) can be set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import ghz
from bench.form import Check, Report, Samples
from gateway.render import descriptor_set
from services.embedded import suite
from services.embedded.parts import Part
from services.embedded.supervisor import Supervisor
from services.embedded.testing import scratch

CALL = "modelyard.registry.v1.ModelService/GetModel"
CONTENDERS = {"measured": "", "unmeasured": "1"}
ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS = float(os.environ.get("SECONDS", "3"))
CONCURRENCY, CONNECTIONS = 64, 8
REQUIRED_SHARE = 0.95


@contextmanager
def services() -> Iterator[tuple[dict[str, str], Path]]:
    """
    Both services: addresses by contender, and the descriptors.
    """
    with scratch() as state:
        supervisor, addresses, parts = Supervisor(state / "log"), {}, []
        for contender, unmeasured in CONTENDERS.items():
            port, metrics = suite.ports(1), suite.ports(1)
            addresses[contender] = f"127.0.0.1:{port}"
            parts.append(_part(contender, port, metrics, unmeasured))
        try:
            supervisor.start(parts)
            descriptors = state / "contracts.binpb"
            descriptors.write_bytes(descriptor_set())
            yield addresses, descriptors
        finally:
            supervisor.stop()


def _part(name: str, port: int, metrics: int, unmeasured: str) -> Part:
    def ready() -> None:
        suite.serving(f"127.0.0.1:{port}", "")

    return Part(
        name=name,
        argv=[sys.executable, "-m", "bench.empty"],
        ready=ready,
        environment={
            "MODELYARD_HOST": "envoy",
            "MODELYARD_LISTEN": f"127.0.0.1:{port}",
            "MODELYARD_METRICS": f"127.0.0.1:{metrics}",
            "BENCH_UNMEASURED": unmeasured,
        },
    )


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when measuring costs no more than it may.
    """
    rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    report = Report("bench-instrumentation", "make bench-instrumentation")
    with services() as (addresses, descriptors):
        for number in range(ROUNDS + 1):
            for contender in CONTENDERS if number % 2 else reversed(CONTENDERS):
                seconds = SECONDS if number else 1.0  # to warm up
                load = ghz.Load(CALL, {}, addresses[contender], descriptors, seconds, CONCURRENCY, CONNECTIONS)
                measured = ghz.run(load)
                if measured.failures:
                    raise SystemExit(f"{contender}: {measured.failures} calls failed: {dict(measured.codes)}")
                if number:
                    rates[contender].append(measured.rate)
                    print(f"round {number}/{ROUNDS}  {contender:<10} {measured.rate:>9,.0f} calls/s", flush=True)
    for contender, values in rates.items():
        report.add(contender, {"calls/s": Samples(tuple(values))})
    pairs = zip(rates["measured"], rates["unmeasured"], strict=True)
    shares = Samples(tuple(with_ / without for with_, without in pairs))
    report.notes = [
        f"an empty GetModel, one process each, {CONCURRENCY} calls in flight on {CONNECTIONS} connections, "
        f"{ROUNDS} rounds of {SECONDS:g} s; client and servers share the machine's cores",
        f"share by round: {shares.spread}",
    ]
    report.checks = [Check("measured over unmeasured, calls/s", shares.median, REQUIRED_SHARE, "x")]
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
