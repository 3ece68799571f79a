"""
`make drill-abuse`: how much slower those who behave are served while the gateway is attacked.

Each attack goes on for SECONDS (5), again and again, in turns with as long without it, ROUNDS (3) times; the 99th
percentiles of a client that calls every few milliseconds are put side by side. Two and more means that the attack was
felt.
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

import psutil

from bench.form import Check, Report, Samples
from bench.ghz import percentile
from services.embedded.stack import Stack, StackSettings
from services.embedded.testing import scratch
from tests.abuse.attacks import ATTACKS, Attack
from tests.abuse.bad_requests import bad_requests
from tests.abuse.test_abuse import behaving

SECONDS = float(os.environ.get("SECONDS", "5"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
_REQUIRED = 2.0
_ATTACKS = {**ATTACKS, bad_requests.__name__: bad_requests}
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
    asyncio.run(again(_ATTACKS[name], port))


def slowest(gateway: str, name: str | None) -> float:
    """
    The 99th percentile, in milliseconds, of the calls of a client that behaves while *name* is under way.
    """
    with behaving(gateway) as took:
        if name is None:
            time.sleep(SECONDS)
        else:
            process = get_context("spawn").Process(target=attacker, args=(name, int(gateway.rpartition(":")[2])))
            process.start()
            process.join()
    return percentile(sorted(took), 0.99) * 1000


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
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as stack:
        (gateway,) = psutil.Process(stack.pid("gateway")).children()
        slowest(stack.gateway, None)  # to warm up
        for name in os.environ.get("ATTACKS", ",".join(_ATTACKS)).split(","):
            before = gateway.memory_info().rss
            calm, attacked = [], []
            for _ in range(ROUNDS):
                calm.append(slowest(stack.gateway, None))
                attacked.append(slowest(stack.gateway, name))
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
            print(f"{name:<22} p99 {statistics.median(calm):7.2f} → {statistics.median(attacked):7.2f} ms", flush=True)
        stack.kill("s3")
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
