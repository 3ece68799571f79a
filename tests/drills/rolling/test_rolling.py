"""
A suite of two instances of everything rolls under load, one after the other, as a deployment does.

`make drill-rolling` is the long form: 200 calls a second for two minutes.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from tests.drills.rolling.load import Load

pytestmark = [pytest.mark.alone, pytest.mark.own_suite]
SECONDS = float(os.environ.get("MODELYARD_DRILL_ROLLING_SECONDS", "0"))
RATE = float(os.environ.get("MODELYARD_DRILL_ROLLING_RATE", "40"))
#: Between the time that an instance is ready and the end of the next one, as `minReadySeconds` of a deployment: so long
#: may gateways and clients take to connect to it again.
READY_SECONDS = 3.0
SERVICES = ("registry", "cdn", "cache", "gateway")
ROLLED = [f"{name}{number}" for name in SERVICES for number in (("", "-2") if SECONDS else ("",))]


@pytest.fixture(scope="module")
def doubled() -> Iterator[Stack]:
    """
    The suite with two instances of each service, and two gateways.
    """
    with scratch() as state:
        settings = StackSettings(state=state, gateway_port=0, instances=2, gateways=2, drain_seconds=5)
        with Stack(settings) as running:
            yield running
            running.kill("s3")


@pytest.mark.timeout(600)
def test_nobody_notices(doubled: Stack) -> None:
    """
    Instances of every service and gateways are replaced under load: not one call fails, and a watcher that goes on
    where it was is told of every creation exactly once. (In the short form one of each.)
    """
    ends = time.monotonic() + SECONDS
    rolls, took = 0, {}
    with Load(doubled.gateways, RATE) as load:
        time.sleep(1)
        while not rolls or time.monotonic() < ends:
            for name in ROLLED:
                before, began = doubled.pid(name), time.monotonic()
                doubled.restart(name)
                assert doubled.pid(name) != before
                took[name] = round(time.monotonic() - began, 1)
                time.sleep(READY_SECONDS if SECONDS else 0.3)
            rolls += 1
    found = load.outcome
    told = {name: found.told[name] for name in found.created}
    print(  # noqa: T201 - the drill's result
        json.dumps(
            {
                "rolls": rolls,
                "calls": dict(found.made),
                "failed": len(found.failed),
                "slowest_seconds": round(found.slowest, 3),
                "watches": found.streams,
                "created": len(found.created),
                "seconds": took,
                "why": Counter(found.failed).most_common(5),
            }
        )
    )
    assert not found.failed, found.failed[:20]
    assert set(told.values()) == {1}
    # Which of them it was connected to is a matter of chance.
    assert found.streams > 1 or not SECONDS
