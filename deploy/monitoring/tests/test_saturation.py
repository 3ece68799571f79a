"""
A service whose event loop is saturated burns the budget of what it promises.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.monitoring.objectives import objectives
from deploy.monitoring.tests.prometheus import program, scraping
from services.chassis.hosts import envoy
from services.chassis.tests.behaviour.client import Stub, ask, channel_to
from services.chassis.tests.behaviour.probe_process import running

# The burn rate that pages the on-call: see objectives.py.
_PAGE = 14.4


async def test_a_saturated_event_loop_burns_the_budget(tmp_path: Path) -> None:
    """
    Health checks that wait for the loop count as slow, although each takes microseconds once it is its turn: the burn
    rate is one that pages the on-call.
    """
    program("prometheus")
    if (lacks := envoy.missing()) is not None:
        pytest.skip(f"the Envoy host cannot run here: {lacks}")
    (health,) = [each for each in objectives() if each.name == "health"]
    burning = f"({health.bad.replace('WINDOW', '5m')}) / {health.budget:g}"
    async with running("envoy", tmp_path) as service, channel_to(service.target) as channel:
        page = f"http://127.0.0.1:{service.metrics[0]}/metrics"
        with scraping(tmp_path, {"registry": [page]}) as prometheus:
            until = time.monotonic() + 60
            burns: list[float] = []
            while not burns or not burns[-1] > _PAGE:
                assert time.monotonic() < until, burns
                await _saturate(channel)
                found = await asyncio.to_thread(prometheus.query, burning)
                burns += [float(each["value"][1]) for each in found]


async def _saturate(channel: object) -> None:
    """
    Keep the loop busy for a second, with health checks beside.
    """
    probe, health = Stub(channel), health_pb2_grpc.HealthStub(channel)  # type: ignore[arg-type]
    busy = [ask(probe, "Unary", metadata=(("x-block-ms", "200"),), timeout=30) for _ in range(5)]
    checks = [health.Check(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(20)]
    await asyncio.gather(*busy, *checks)
