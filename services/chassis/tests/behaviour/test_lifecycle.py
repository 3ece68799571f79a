"""
How a service's processes begin and end.
"""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.tests.behaviour.client import EOF, KINDS, Stub, answers, ask, channel_to, eventually, fate, name
from services.chassis.tests.behaviour.probe_process import Probe, running
from services.chassis.tests.conftest import Launch
from services.chassis.tests.proto import probe_pb2 as pb
from services.chassis.tests.proto.probe_pb2_grpc import ProbeServiceStub


async def test_drain(host_name: str, tmp_path: Path) -> None:
    """
    SIGTERM turns health to NOT_SERVING; calls in flight finish, but for those that outlast the drain: they are
    UNAVAILABLE. The exit code is 0.
    """
    async with (
        running(host_name, tmp_path, MODELYARD_DRAIN_SECONDS="0.8") as own,
        channel_to(own.target) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call, probe = name(), Stub(channel)
        short, long = [
            [
                asyncio.ensure_future(answers(ask(probe, kind, pb.Ask(answers=1, pause_ms=pause), call=call)))
                for kind in KINDS
            ]
            for pause in (400, 60_000)
        ]

        async def all_begun() -> bool:
            return (await fate(probe, call)).received == 2 * len(KINDS)

        await eventually(all_begun)
        stopping = asyncio.create_task(own.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() is EOF
        assert [len(found) for found in await asyncio.gather(*short)] == [1] * len(KINDS)
        await stopping
        cut = await asyncio.gather(*long, return_exceptions=True)
        assert [error.code() for error in cut if isinstance(error, grpc.aio.AioRpcError)] == [
            grpc.StatusCode.UNAVAILABLE
        ] * len(KINDS)


async def test_orphans(host_name: str, tmp_path: Path) -> None:
    """
    A launcher that is killed leaves no process behind.
    """
    async with running(host_name, tmp_path, workers=2) as own:
        family = own.family()
        assert len(family) >= 3
        own.process.send_signal(signal.SIGKILL)
        await own.process.wait()

        async def gone() -> bool:
            return not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

        await eventually(gone, lambda: str(family))


def test_taken_meanwhile(host: Probe, launch: Launch) -> None:
    """
    A second launcher on the ports of the first one is refused, and the first one serves on: ports are not shared.
    """
    code, said = launch(MODELYARD_HOST=host.host, MODELYARD_LISTEN=host.target)
    assert code == 1
    assert "already in use" in said
    with grpc.insecure_channel(host.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        assert ProbeServiceStub(channel).Unary(pb.Ask(text="here"), timeout=20).text == "here"


async def test_workers(host: Probe) -> None:
    """
    Each of two workers serves on a port of its own, and shows its metrics on a port of its own.
    """
    call = name()
    for number, (port, metrics) in enumerate(zip(host.ports, host.metrics, strict=True), 1):
        async with channel_to(f"127.0.0.1:{port}") as channel:
            for _ in range(number):
                await ask(Stub(channel), "Unary", call=call, timeout=10)
            # What one worker has served, the other knows nothing of.
            assert (await fate(Stub(channel), call)).finished == number
        page = await asyncio.to_thread(_metrics, metrics)
        assert 'grpc_code="OK",grpc_method="Unary",grpc_service="modelyard.test.v1.ProbeService"' in page


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text: str = page.read().decode()
        return text
