"""
`make drill-abuse`: how much slower those who behave are served while the gateway is attacked.

Each attack goes on for SECONDS (5), again and again, in turns with as long without it, ROUNDS (3) times; the 99th
percentiles of a client that reads every few milliseconds are put side by side. Two and more means that the attack was
felt. Of watchers, who are no attack, it is the milliseconds that they add. No call of a client that behaves may fail:
besides the reads these are creations, uploads and values of the key-value cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil

from bench.form import Check, Report, Samples
from bench.ghz import percentile
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from tests.drills.abuse.attacks import ATTACKS, UPLOAD_ATTACKS, Attack
from tests.drills.abuse.bad_requests import bad_requests
from tests.drills.abuse.keyvalue import VALKEY
from tests.drills.abuse.test_abuse import NormalClients, normal_clients
from tests.drills.abuse.watchers import watch

SECONDS = float(os.environ.get("SECONDS", "5"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
_ALL = {**ATTACKS, **UPLOAD_ATTACKS, bad_requests.__name__: bad_requests}
_REQUIRED = 2.0
# Who watches and says nothing: how many, and how many milliseconds they may add for others.
WATCHERS = {"watchers_2000": 2000, "watchers_8000": 8000}
_ADDED_MS = 20.0
_MIB = 1 << 20


async def again(attack: Attack, port: int) -> None:
    """
    Attack until the time is up. What comes of each is for the tests to look at.
    """
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        with suppress(AssertionError, OSError, TimeoutError):
            await attack(port)
        await asyncio.sleep(0.02)


def attacker(name: str, port: int) -> None:
    """
    A process that attacks. Attackers have machines of their own: this one takes what the others leave.
    """
    os.nice(19)
    logging.disable()  # a connection that is closed under it is what it wants
    asyncio.run(again(_ALL[name], port))


def watcher(port: int, count: int, opened: Connection, enough: Event) -> None:
    """
    A process with as many watches.
    """
    os.nice(19)
    logging.disable()
    asyncio.run(watch(port, count, opened.send, enough.is_set))


def watched(gateway: str, count: int) -> tuple[NormalClients, int]:
    """
    As `served`, while *count* watches are open; and how many of them were.
    """
    context = get_context("spawn")
    enough, (here, there) = context.Event(), context.Pipe()
    process = context.Process(target=watcher, args=(int(gateway.rpartition(":")[2]), count, there, enough))
    process.start()
    try:
        if not here.poll(120):
            raise TimeoutError(f"{count} watches could not be opened")
        held: int = here.recv()
        with normal_clients(gateway) as found:
            time.sleep(SECONDS)
    finally:
        enough.set()
        process.join()
    return found, held


def watchers(report: Report, stack: Stack, name: str) -> None:
    """
    Measure what they add.
    """
    calm, crowded, held, failed = [], [], [], 0
    for _ in range(ROUNDS):
        calm.append(slowest(served(stack.gateway, None)))
        found, count = watched(stack.gateway, WATCHERS[name])
        crowded.append(slowest(found))
        failed += _failed(name, found)
        held.append(float(count))
    added = [one - other for one, other in zip(crowded, calm, strict=True)]
    report.add(
        name,
        {
            "p99 ms, calm": Samples(tuple(calm)),
            "p99 ms, watched": Samples(tuple(crowded)),
            "ms more": Samples(tuple(added)),
            "watches open": Samples(tuple(held)),
        },
    )
    report.checks.append(Check(f"{name}, p99 more", statistics.median(added), _ADDED_MS, "ms", "lower"))
    report.checks.append(Check(f"{name}, others' errors", float(failed), 0.0, "", "lower"))
    report.checks.append(Check(f"{name}, open", min(held), float(WATCHERS[name]), "", "higher"))
    print(f"{name:<22} p99 {statistics.median(calm):7.2f} → {statistics.median(crowded):7.2f} ms", flush=True)


def served(gateway: str, name: str | None) -> NormalClients:
    """
    How clients that behave are served while *name* is under way.
    """
    with normal_clients(gateway) as found:
        if name is None:
            time.sleep(SECONDS)
        else:
            process = get_context("spawn").Process(target=attacker, args=(name, int(gateway.rpartition(":")[2])))
            process.start()
            process.join()
    return found


def slowest(found: NormalClients) -> float:
    """
    The 99th percentile of their reads in milliseconds.
    """
    return percentile(sorted(found.took), 0.99) * 1000


def _failed(name: str, found: NormalClients) -> int:
    if found.failed:
        print(f"{name}: {len(found.failed)} of {found.calls} calls of others failed: {found.failed[0]}", flush=True)
    return len(found.failed)


def _settings(state: Path) -> StackSettings:
    # The watchers are many clients, who share an address here. Those of the round before count for some seconds more,
    # until a process has noticed that they are gone.
    environment = {"MODELYARD_STREAMS_PER_CLIENT": "0", "MODELYARD_STREAMS_MOST": "0"}
    return StackSettings(state=state, gateway_port=0, environment=environment)


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when nobody was felt.
    """
    report = Report("drill-abuse", f"make drill-abuse SECONDS={SECONDS:g} ROUNDS={ROUNDS}")
    report.notes = [
        "the attacker, the client, the gateway, the services and their databases share the machine's cores",
        "the attacker has the least priority",
    ]
    with scratch() as state, Stack(_settings(state)) as stack:
        os.environ[VALKEY] = stack.valkey.whole_url
        (gateway,) = psutil.Process(stack.pid("gateway")).children()
        served(stack.gateway, None)  # to warm up
        for name in os.environ.get("ATTACKS", ",".join([*_ALL, *WATCHERS])).split(","):
            if name in WATCHERS:
                watchers(report, stack, name)
                continue
            before = gateway.memory_info().rss
            calm, attacked, failed = [], [], 0
            for _ in range(ROUNDS):
                calm.append(slowest(served(stack.gateway, None)))
                found = served(stack.gateway, name)
                attacked.append(slowest(found))
                failed += _failed(name, found)
            grown = (gateway.memory_info().rss - before) / _MIB
            ratios = [one / other for one, other in zip(attacked, calm, strict=True)]
            report.add(
                name,
                {
                    "p99 ms, calm": Samples(tuple(calm)),
                    "p99 ms, attacked": Samples(tuple(attacked)),
                    "ratio": Samples(tuple(ratios)),
                    "gateway MiB more": Samples((grown,)),
                },
            )
            report.checks.append(Check(name, statistics.median(ratios), _REQUIRED, "x", "lower"))
            report.checks.append(Check(f"{name}, others' errors", float(failed), 0.0, "", "lower"))
            print(f"{name:<22} p99 {statistics.median(calm):7.2f} → {statistics.median(attacked):7.2f} ms", flush=True)
        stack.kill("s3")
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
