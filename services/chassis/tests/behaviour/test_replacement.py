"""
SIGTERM under load.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import grpc
import psutil

from services.chassis.tests.behaviour.client import KINDS, Stub, answers, ask, channel_to, fate, name, path
from services.chassis.tests.behaviour.differences import OK, SUDDEN_END
from services.chassis.tests.behaviour.probe_process import Probe, running
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_CALLERS = 32
_REQUEST = pb.Ask(answers=5, pause_ms=10)


class Load:
    """
    Callers that call again as soon as they have an answer, with calls of all four kinds.
    """

    def __init__(self, channel: grpc.aio.Channel, call: str) -> None:
        self._probe = Stub(channel)
        self._call = call
        self._enough = asyncio.Event()
        self.served = 0
        self.failed: list[grpc.aio.AioRpcError] = []

    async def go_on(self) -> None:
        """
        Call until `stop`.
        """
        await asyncio.gather(*(self._one(kind) for kind in itertools.islice(itertools.cycle(KINDS), _CALLERS)))

    def stop(self) -> None:
        """
        Let the callers finish what they do.
        """
        self._enough.set()

    async def _one(self, kind: str) -> None:
        while not self._enough.is_set():
            try:
                await answers(ask(self._probe, kind, _REQUEST, call=self._call, timeout=30))
                self.served += 1
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)


async def test_sigterm_under_load(host: Probe, tmp_path: Path) -> None:
    """
    One of two instances gets SIGTERM while clients that heed health call both: not one call fails.
    """
    async with running(host.host, tmp_path, MODELYARD_DRAIN_DELAY_SECONDS="0.3") as leaving:
        load = await _replaced(leaving, host, healthCheckConfig={"serviceName": ""})
    assert not load.failed


async def test_sigterm_without_warning(host: Probe, tmp_path: Path) -> None:
    """
    The same without a delay, for clients that know nothing of health: not one call fails that has begun.
    """
    async with running(host.host, tmp_path) as leaving:
        load = await _replaced(leaving, host)
    assert {error.code().name for error in load.failed} <= SUDDEN_END.on(host.host)
    (last,) = [json.loads(line) for line in leaving.log.read_text().splitlines() if "the probe ends" in line]
    assert last["started"] == last["finished"] > 0


async def test_idle_connections_receive_goaway(host_name: str, tmp_path: Path) -> None:
    """
    SIGTERM without a delay: a connection without a call receives GOAWAY before it is closed. On the Envoy host a call
    that was under way by then is served, and the last GOAWAY has its number.
    """
    async with running(host_name, tmp_path) as leaving, Wire.open(leaving.port) as wire:
        assert (await wire.call(path("Unary"), message(b""))).status == OK
        stopping = asyncio.create_task(leaving.stop())
        assert await wire.goaway() > _CALLERS
        if host_name == "envoy":
            late = wire.begin(path("Unary"))
            wire.data(late, message(b""), end=True)
            assert (await wire.reply(late)).status == OK
            assert await wire.goaway() == late
        await stopping
        async with asyncio.timeout(10):
            await wire.closed.wait()


async def _replaced(leaving: Probe, staying: Probe, **config: Any) -> Load:
    """
    Load both, end *leaving* in the middle of it, which has to exit with 0, and go on.
    """
    call = name()
    service_config = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **config})
    both = f"ipv4:{leaving.target},{staying.target}"
    async with channel_to(both, ("grpc.service_config", service_config)) as channel:
        load = Load(channel, call)
        calling = asyncio.create_task(load.go_on())
        for each in (leaving, staying):
            async with channel_to(each.target) as own, asyncio.timeout(30):
                # Calls have ended there, and others are in progress.
                while not (told := await fate(Stub(own), call)).started > told.finished > 0:
                    await asyncio.sleep(0.02)
        served = load.served
        await leaving.stop()
        await asyncio.sleep(0.2)
        load.stop()
        await calling
    assert load.served > served
    return load


async def test_connections_end_when_they_are_old(host_name: str, tmp_path: Path) -> None:
    """
    With a connection age, callers connect anew from time to time, and not one call of theirs fails.
    """
    async with running(host_name, tmp_path, MODELYARD_CONNECTION_AGE_SECONDS="0.5") as probe:
        # gRPC's own retry of calls that the server has not seen is what makes a GOAWAY harmless: clients have it on.
        async with grpc.aio.insecure_channel(probe.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            load = Load(channel, name())
            calls = asyncio.create_task(load.go_on())
            ports: set[int] = set()
            async with asyncio.timeout(30):
                while len(ports) < 3:
                    ports |= {each.laddr.port for each in _connections(probe.port)}
                    await asyncio.sleep(0.05)
            load.stop()
            await calls
        assert not load.failed
        assert load.served > 0


def _connections(port: int) -> list[Any]:
    found = psutil.Process().net_connections("tcp")
    return [each for each in found if each.status == psutil.CONN_ESTABLISHED and each.raddr.port == port]
