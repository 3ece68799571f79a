"""
`make bench-instrumentation`: what measuring costs. The same empty call with all that a service measures of its calls
and without, in turns over several rounds: one process each on the Envoy host, the same client. The service's processor
time for each call is beside it, because others on the machine move it less than they move calls per second.

ROUNDS and SECONDS (of each) can be set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench import ghz
from bench.form import Check, Report, Samples
from embedded import suite
from embedded.parts import Part
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from gateway.render import descriptor_set

CALL = "modelyard.registry.v1.ModelService/GetModel"
CONTENDERS = {"measured": "", "unmeasured": "1"}
ROUNDS = int(os.environ.get("ROUNDS", "15"))
SECONDS = float(os.environ.get("SECONDS", "1.5"))
CONCURRENCY, CONNECTIONS = 64, 8
REQUIRED_SHARE = 0.95


@contextmanager
def services() -> Iterator[tuple[dict[str, str], dict[str, int], Path]]:
    """
    Both services: addresses and process ids by contender, and the descriptors.
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
            yield addresses, {contender: supervisor.pid(contender) for contender in CONTENDERS}, descriptors
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


def busy(pid: int) -> float:
    """
    Seconds of processor time that a process and those below it have used.
    """
    launcher = psutil.Process(pid)
    times = [each.cpu_times() for each in (launcher, *launcher.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when measuring costs no more than it may.
    """
    rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    costs: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    report = Report("bench-instrumentation", "make bench-instrumentation")
    with services() as (addresses, pids, descriptors):
        for number in range(ROUNDS + 1):
            for contender in CONTENDERS if number % 2 else reversed(CONTENDERS):
                seconds = SECONDS if number else 1.0  # to warm up
                load = ghz.Load(CALL, {}, addresses[contender], descriptors, seconds, CONCURRENCY, CONNECTIONS)
                before = busy(pids[contender])
                measured = ghz.run(load)
                cost = (busy(pids[contender]) - before) / measured.codes.total() * 1e6
                if measured.failures:
                    raise SystemExit(f"{contender}: {measured.failures} calls failed: {dict(measured.codes)}")
                if number:
                    rates[contender].append(measured.rate)
                    costs[contender].append(cost)
                    figures = f"{measured.rate:>9,.0f} calls/s  {cost:6.1f} µs a call"
                    print(f"round {number}/{ROUNDS}  {contender:<10} {figures}", flush=True)
    for contender in CONTENDERS:
        of_calls, of_time = Samples(tuple(rates[contender])), Samples(tuple(costs[contender]))
        report.add(contender, {"calls/s": of_calls, "server µs a call": of_time})
    shares, more = ratio(rates), ratio(costs)
    report.notes = [
        f"an empty GetModel, one process each, {CONCURRENCY} calls in flight on {CONNECTIONS} connections, "
        f"{ROUNDS} rounds of {SECONDS:g} s; client and servers share the machine's cores",
        f"calls/s, measured over unmeasured, by round: {shares.spread}",
        f"processor time of a call, measured over unmeasured: {more.median:.3f} x ({more.spread})",
    ]
    report.checks = [Check("measured over unmeasured, calls/s", shares.median, REQUIRED_SHARE, "x")]
    return report.close()


def ratio(figures: Mapping[str, list[float]]) -> Samples:
    """
    Measured over unmeasured, round by round.
    """
    pairs = zip(figures["measured"], figures["unmeasured"], strict=True)
    return Samples(tuple(one / other for one, other in pairs))


if __name__ == "__main__":
    sys.exit(main())
