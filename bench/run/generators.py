"""
Load generators: concurrent ghz processes, and their results call by call.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import tools
from bench.run.plan import Scenario

_START = 15.0
_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where the calls go.

    Args:
        address: host:port.
        protoset: the descriptors of all calls.
        ca_file: a CA bundle; enables TLS.
        token_file: a bearer token.
    """

    address: str
    protoset: Path
    ca_file: Path | None = None
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class GeneratorRun:
    """
    The load of one ghz process.

    Args:
        scenario: the call.
        data: its requests, used round-robin.
        users: the maximum number of calls in flight (closed loop).
        rate: calls per second.
        seconds: the duration.
        open_loop: whether calls are sent at a constant rate, whether or not earlier ones have completed.
    """

    scenario: Scenario
    data: Sequence[Mapping[str, object]]
    users: int
    rate: int
    seconds: float
    open_loop: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """
    One call.

    Args:
        at: when it was sent, or scheduled to be sent (open loop), in seconds since 1970.
        ms: its latency from then, in milliseconds.
        status: its code, as ghz spells it: OK, Unavailable, …
    """

    at: float
    ms: float
    status: str


def generate(shots: Sequence[GeneratorRun], target: Target, folder: Path) -> tuple[list[list[Call]], float]:
    """
    Run all of them at once.

    Returns:
        The calls of each, and the cores that they took together.

    Raises:
        RuntimeError: one of them failed; the end of its output is in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before, began = os.times(), time.monotonic()
    running = [_start(number, shot, target, folder) for number, shot in enumerate(shots)]
    ends = began + max(shot.seconds for shot in shots) + _START + 25
    found = []
    try:
        for shot, (process, answer) in zip(shots, running, strict=True):
            _, said = process.communicate(timeout=max(1.0, ends - time.monotonic()))
            if process.returncode or not answer.exists():
                raise RuntimeError(f"ghz failed at {shot.scenario.name}: {said.decode().strip()[-400:]}")
            found.append(calls_of(json.loads(answer.read_text()), shot))
            answer.unlink()
    finally:
        for process, _ in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    after = os.times()
    busy = after.children_user - before.children_user + after.children_system - before.children_system
    return found, busy / (time.monotonic() - began)


def _start(number: int, shot: GeneratorRun, target: Target, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    config, answer = folder / f"ghz-{number}.json", folder / f"answer-{number}.json"
    # It may hold a token.
    config.touch(mode=0o600)
    config.write_text(json.dumps(config_of(shot, target)))
    command = [str(tools.ghz()), "--config", str(config), "--output", str(answer)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), answer


def config_of(shot: GeneratorRun, target: Target) -> dict[str, object]:
    """
    The configuration of one process.
    """
    metadata = dict(shot.scenario.ghz.get("metadata", {}))
    if target.token_file is not None:
        metadata["authorization"] = f"Bearer {target.token_file.read_text().strip()}"
    return {
        **shot.scenario.ghz,
        "host": target.address,
        "protoset": str(target.protoset),
        **({"insecure": True} if target.ca_file is None else {"cacert": str(target.ca_file)}),
        "metadata": metadata,
        "data": list(shot.data),
        "concurrency": shot.users,
        "connections": min(shot.users, _CONNECTIONS),
        "rps": shot.rate,
        "duration": f"{shot.seconds:.3f}s",
        "duration-stop": "wait",
        "async": shot.open_loop,
        "format": "json",
        # Templates are parsed for every call, which would measure ghz.
        "disable-template-functions": True,
        "disable-template-data": True,
    }


def calls_of(answer: Mapping[str, Any], shot: GeneratorRun) -> list[Call]:
    """
    The calls in ghz's report. In an open loop the n-th call is scheduled n intervals after the first one, and latency
    is measured from there: a delay of ghz counts as latency, which corrects for coordinated omission (G. Tene, "How NOT
    to Measure Latency").
    """
    details = answer.get("details") or []
    found = sorted(
        (datetime.fromisoformat(each["timestamp"]).timestamp(), each["latency"] / 1e6, str(each["status"]))
        for each in details
    )
    if not shot.open_loop:
        return [Call(*each) for each in found]
    calls = []
    for number, (at, ms, status) in enumerate(found):
        due = min(at, found[0][0] + number / shot.rate)
        calls.append(Call(due, ms + (at - due) * 1000, status))
    return calls
