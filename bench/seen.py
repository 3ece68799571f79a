"""
`make bench-seen`: what a client measures beside what the service's own histogram says of the same calls: the median and
the 99th percentile, with 256 calls in flight on a service that answers with a constant, on each host.

The percentile of the histogram is found as Prometheus does it (histogram_quantile), from the calls of that round. The
client is h2load where it is installed (`apt install nghttp2-client`): it leaves most of the cores to the service, and
what it waits for is not itself. Else it is ghz.
ROUNDS and SECONDS (of each) can be set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import ghz
from bench.form import Check, Report, Samples
from embedded import suite
from embedded.parts import Part
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from gateway.render import descriptor_set
from modelyard.cli.scrape import parse
from modelyard.cli.statistics import Calls
from modelyard.registry.v1 import models_pb2
from services.chassis.hosts.framing import frame

HOSTS = ("envoy", "grpcio")
CALL = "modelyard.registry.v1.ModelService/GetModel"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "4"))
CONCURRENCY, CONNECTIONS = 256, 16
# What the histogram may differ from the client: either way.
MOST_DIFFERENCE = 0.2
SHARES = {"p50": 0.5, "p99": 0.99}


@contextmanager
def services() -> Iterator[tuple[dict[str, str], dict[str, str], Path]]:
    """
    A service on each host: addresses and metrics pages by host, and the descriptors.
    """
    with scratch() as state:
        supervisor, addresses, pages, parts = Supervisor(state / "log"), {}, {}, []
        for host in HOSTS:
            port, metrics = suite.ports(1), suite.ports(1)
            addresses[host], pages[host] = f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics"
            parts.append(_part(host, port, metrics))
        try:
            supervisor.start(parts)
            descriptors = state / "contracts.binpb"
            descriptors.write_bytes(descriptor_set())
            yield addresses, pages, descriptors
        finally:
            supervisor.stop()


def _part(host: str, port: int, metrics: int) -> Part:
    def ready() -> None:
        suite.serving(f"127.0.0.1:{port}", "")

    return Part(
        name=host,
        argv=[sys.executable, "-m", "bench.constant"],
        ready=ready,
        environment={
            "MODELYARD_HOST": host,
            "MODELYARD_LISTEN": f"127.0.0.1:{port}",
            "MODELYARD_METRICS": f"127.0.0.1:{metrics}",
            # A busy machine makes every call slow: nobody wants a line of each.
            "MODELYARD_LOG_LEVEL": "error",
        },
    )


def counted(page: str) -> Counter[float]:
    """
    How many calls of `CALL` took at most so many seconds, by the bounds of the histogram.
    """
    with urllib.request.urlopen(page, timeout=10) as answer:  # noqa: S310 - our own page
        samples = list(parse(answer.read().decode()))
    method = CALL.rpartition("/")[2]
    return Counter(
        {
            float(each.labels["le"]): int(each.value)
            for each in samples
            if each.name == "grpc_server_handling_seconds_bucket" and each.labels["grpc_method"] == method
        }
    )


def quantiles(before: Counter[float], after: Counter[float]) -> dict[str, float]:
    """
    The percentiles of the calls between two readings, in milliseconds.
    """
    calls = Calls()
    calls.seconds.update({bound: after[bound] - before[bound] for bound in after})
    return {name: (calls.quantile(share) or 0.0) * 1000 for name, share in SHARES.items()}


def run(load: ghz.Load) -> ghz.Measured:
    """
    What the client measures.

    Raises:
        SystemExit: a call failed.
    """
    program = shutil.which("h2load")
    measured = ghz.run(load) if program is None else _h2load(program, load)
    if measured.failures:
        raise SystemExit(f"{load.address}: {measured.failures} calls failed: {dict(measured.codes)}")
    return measured


def _h2load(program: str, load: ghz.Load) -> ghz.Measured:
    with tempfile.TemporaryDirectory() as scratch:
        body, log = Path(scratch) / "body", Path(scratch) / "log"
        body.write_bytes(frame(models_pb2.GetModelRequest(**load.data).SerializeToString(), 1 << 20, "identity"))  # type: ignore[arg-type]
        each = load.concurrency // load.connections
        options = ["-D", f"{load.seconds:g}", "-c", str(load.connections), "-m", str(each), "-t", "1", "-d", str(body)]
        options += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log}"]
        before = os.times()
        subprocess.run(
            [program, *options, f"http://{load.address}/{load.call}"],
            check=True,
            capture_output=True,
            timeout=load.seconds + 60,
        )
        after = os.times()
        # When it began, its HTTP status, and the microseconds that it took.
        calls = [line.split() for line in log.read_text().splitlines()]
    failed = sum(status != "200" for _, status, _ in calls)
    busy = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return ghz.Measured.of(
        [int(taken) / 1000 for _, _, taken in calls],
        len(calls) / load.seconds,
        Counter(OK=len(calls) - failed, failed=failed),
        busy / load.seconds,
    )


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when the histogram says what the client sees.
    """
    found: dict[str, dict[str, list[float]]] = {}
    ratios: dict[str, list[float]] = {host: [] for host in HOSTS}
    report = Report("bench-seen", "make bench-seen")
    with services() as (addresses, pages, descriptors):
        for number in range(ROUNDS + 1):
            for host in HOSTS if number % 2 else reversed(HOSTS):
                before = counted(pages[host])
                seconds = SECONDS if number else 1.0  # to warm up
                load = ghz.Load(CALL, {"name": "m"}, addresses[host], descriptors, seconds, CONCURRENCY, CONNECTIONS)
                measured = run(load)
                own = quantiles(before, counted(pages[host]))
                if not number:
                    continue
                client = {"p50": measured.p50_ms, "p99": measured.p99_ms}
                ratios[host].append(own["p99"] / client["p99"])
                for who, figures in (("client", client), ("histogram", own)):
                    for name, value in figures.items():
                        found.setdefault(f"{host}, {who}", {}).setdefault(f"{name} ms", []).append(value)
                shown = "  ".join(f"{name} {client[name]:7.1f} / {own[name]:7.1f} ms" for name in SHARES)
                print(f"round {number}/{ROUNDS}  {host:<7} {measured.rate:>8,.0f} calls/s  {shown}", flush=True)
    for contender, percentiles in found.items():
        report.add(contender, {name: Samples(tuple(values)) for name, values in percentiles.items()})
    report.notes = [
        f"{CONCURRENCY} calls in flight on {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s; client and "
        "service share the machine's cores: where the client waits for one, only it sees that",
        *(
            f"{host}: p99, histogram over client, by round: {Samples(tuple(each)).spread}"
            for host, each in ratios.items()
        ),
        "grpcio hands calls over to Python one at a time, and says nothing of how long they waited for that",
    ]
    # The Envoy host alone is asked for it: see docs/hosts.md.
    ratio = Samples(tuple(ratios["envoy"])).median
    report.checks = [
        Check("histogram over client, p99, Envoy host, at least", ratio, 1 - MOST_DIFFERENCE, "x"),
        Check("histogram over client, p99, Envoy host, at most", ratio, 1 + MOST_DIFFERENCE, "x", better="lower"),
    ]
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
