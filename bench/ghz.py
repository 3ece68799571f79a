"""
Run ghz once and read what it measured, from the details of all calls and not from its capped summary.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import tools

#: A client that takes more of all cores is refused.
MOST_OF_THE_CORES = 0.85


@dataclass(frozen=True, slots=True)
class Load:
    """
    What to send.

    Args:
        call: the full method, `package.Service/Method`.
        data: the request as JSON, one or a list that is used round-robin.
        address: host:port, plaintext.
        protoset: the descriptor set (`protos/generate.py --image`).
        seconds: how long.
        concurrency: calls in flight.
        connections: HTTP/2 connections that they share.
        metadata: of each call.
    """

    call: str
    data: Mapping[str, object] | list[Mapping[str, object]]
    address: str
    protoset: Path
    seconds: float
    concurrency: int = 64
    connections: int = 8
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What came back: calls per second, percentiles in milliseconds, codes by count, and the client's CPU in cores.
    """

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    codes: Counter[str]
    client_cores: float

    @classmethod
    def of(
        cls, latencies: list[float], rate: float, codes: Counter[str] | None = None, client_cores: float = 0.0
    ) -> Measured:
        """
        The figures of calls that took so many milliseconds each.
        """
        ordered = sorted(latencies)
        p50, p95, p99 = (percentile(ordered, share) for share in (0.50, 0.95, 0.99))
        return cls(rate, p50, p95, p99, codes if codes is not None else Counter(OK=len(ordered)), client_cores)

    @property
    def failures(self) -> int:
        """
        Calls that did not end OK.
        """
        return sum(count for code, count in self.codes.items() if code != "OK")


def run(load: Load) -> Measured:
    """
    Run *load* with ghz.

    Raises:
        RuntimeError: ghz failed; the end of its output is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config, answer = Path(scratch) / "ghz.json", Path(scratch) / "answer.json"
        config.write_text(json.dumps(_config(load)))
        before = os.times()
        done = subprocess.run(
            [str(tools.ghz()), "--config", str(config), "--output", str(answer)],
            capture_output=True,
            text=True,
            timeout=load.seconds + 60,
            check=False,
        )
        after = os.times()
        if done.returncode != 0 or not answer.exists():
            raise RuntimeError(f"ghz failed: {(done.stderr or done.stdout).strip()[-500:]}")
        measured = json.loads(answer.read_text())
    busy = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return _read(measured, busy / load.seconds)


def _config(load: Load) -> dict[str, object]:
    return {
        "insecure": True,
        "protoset": str(load.protoset),
        "call": load.call,
        "host": load.address,
        "data": load.data,
        "metadata": dict(load.metadata),
        "concurrency": load.concurrency,
        "connections": load.connections,
        "duration": f"{load.seconds}s",
        "duration-stop": "wait",
        "timeout": "20s",
        "format": "json",
        # Templates are parsed for every call, which would measure ghz.
        "disable-template-functions": True,
        "disable-template-data": True,
    }


def _read(measured: Mapping[str, object], client_cores: float) -> Measured:
    details = measured["details"]
    if not isinstance(details, list) or not details:
        raise RuntimeError("ghz made no call")
    latencies = [detail["latency"] / 1e6 for detail in details]
    codes = Counter(str(detail["status"]) for detail in details)
    total = measured["total"]
    if not isinstance(total, int):
        raise RuntimeError("ghz gave no total time")
    return Measured.of(latencies, len(details) / (total / 1e9), codes, client_cores)


def refuse_saturated(what: str, cores: float) -> None:
    """
    Raises:
        SystemExit: a client that takes nearly all of the machine measures itself.
    """
    if cores > MOST_OF_THE_CORES * (os.cpu_count() or 1):
        raise SystemExit(
            f"{what}: the client took {cores:.2f} of {os.cpu_count()} cores, so that it measured itself: run it with "
            "less load, or on a larger machine"
        )


def percentile(ordered: list[float], share: float) -> float:
    """
    The value below which *share* (0 to 1) of *ordered* lies, by the nearest rank.
    """
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
