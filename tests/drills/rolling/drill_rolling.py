"""
Rolling updates of two instances of everything under load, one after the other, as a deployment does: `make
drill-rolling`, 200 calls per second for two minutes.

`make test` replaces each instance once: tests/end_to_end/operations/test_changes_under_load.py.
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

pytestmark = pytest.mark.own_suite
SECONDS = float(os.environ.get("MODELYARD_DRILL_ROLLING_SECONDS", "120"))
RATE = float(os.environ.get("MODELYARD_DRILL_ROLLING_RATE", "200"))
#: Between an instance becoming ready and the termination of the next one (`minReadySeconds` of a Deployment): the time
#: that gateways and clients have to reconnect.
READY_SECONDS = 3.0
#: Longer than the gateway's health check interval: docs/rolling.md.
ENVIRONMENT = {"MODELYARD_DRAIN_DELAY_SECONDS": "2"}
SERVICES = ("registry", "cdn", "cache", "gateway")
ROLLED = [f"{name}{number}" for name in SERVICES for number in ("", "-2")]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """
    The suite with two instances of each service, and two gateways.
    """
    with scratch() as state:
        settings = StackSettings(
            state=state, gateway_port=0, instances=2, gateways=2, drain_seconds=5, environment=ENVIRONMENT
        )
        with Stack(settings) as running:
            yield running
            running.kill("s3")


@pytest.mark.timeout(SECONDS + 600)
def test_no_call_fails(stack: Stack) -> None:
    """
    Instances of every service and gateways are replaced under load: no call fails, and a watcher that resumes where it
    was receives every creation exactly once.
    """
    ends = time.monotonic() + SECONDS
    rolls, took = 0, {}
    with Load(stack.gateways, RATE) as load:
        time.sleep(1)
        while not rolls or time.monotonic() < ends:
            for name in ROLLED:
                before, began = stack.pid(name), time.monotonic()
                stack.restart(name)
                assert stack.pid(name) != before
                took[name] = round(time.monotonic() - began, 1)
                time.sleep(READY_SECONDS)
            rolls += 1
    found = load.outcome
    watched = {name: found.watched[name] for name in found.created}
    print(  # noqa: T201 - the drill's result
        json.dumps(
            {
                "rolls": rolls,
                "calls": dict(found.calls),
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
    assert set(watched.values()) == {1}
    assert found.streams > 1
