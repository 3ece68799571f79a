"""
Probes in processes of their own, as a service runs in production.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from embedded import authority
from embedded.parts import take
from services.chassis.serving.tls import channel_credentials
from services.chassis.settings.tls import TlsFiles
from services.chassis.tests.behaviour.client import Stub, channel_to
from services.chassis.tests.proto import probe_pb2 as pb

ROOT = Path(__file__).resolve().parents[4]
MIB = 1 << 20
LIMIT = 5 * MIB  # of a message

# Below the range that Linux takes the ports of outgoing connections from, so that none of those takes one; from
# anywhere in there, so that suites that run at the same time rarely meet.
_PORTS = range(10_000, 32_000)
_OFTEN = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200))


@dataclass(frozen=True, slots=True)
class Probe:
    """
    A launcher and what it started.

    Args:
        host: "envoy" or "grpcio".
        ports: one per worker.
        metrics: one per worker, too.
        process: the launcher.
        log: what it has written.
    """

    host: str
    ports: tuple[int, ...]
    metrics: tuple[int, ...]
    process: asyncio.subprocess.Process
    log: Path

    @property
    def port(self) -> int:
        """
        Of the first worker.
        """
        return self.ports[0]

    @property
    def target(self) -> str:
        """
        The address of the first worker, for channels.
        """
        return f"127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        """
        The launcher and everything below it.
        """
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def memory(self) -> int:
        """
        Bytes that the whole family holds.
        """
        return sum(resident(process) for process in self.family())

    async def stop(self) -> None:
        """
        SIGTERM. It has to end with exit code 0, and nothing may be left of it.
        """
        family = self.family()
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            code = await self.process.wait()
        assert code == 0, self.log.read_text()
        assert not [each for each in family if each.is_running()]


@asynccontextmanager
async def running(
    host: str, folder: Path, *, workers: int = 1, tls: TlsFiles | None = None, **environment: str
) -> AsyncIterator[Probe]:
    """
    A probe that serves; stopped at the end, unless the test has done that.
    """
    ports = free_ports(2 * workers)
    log = folder / f"{host}-{ports[0]}.log"
    own = {
        "MODELYARD_HOST": host,
        "MODELYARD_LISTEN": f"127.0.0.1:{ports[0]}",
        "MODELYARD_METRICS": f"127.0.0.1:{ports[workers]}",
        "MODELYARD_MAX_MESSAGE_BYTES": str(LIMIT),
        "MODELYARD_LOG_FORMAT": "json",
    }
    environment = {**os.environ, **own, **authority.settings(tls), **environment}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "services.chassis.tests.probe", "--workers", str(workers)]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )
    probe = Probe(host, tuple(ports[:workers]), tuple(ports[workers:]), process, log)
    try:
        await _serves(probe, None if tls is None else channel_credentials(tls.read()))
        yield probe
        if process.returncode is None:
            await probe.stop()
    finally:
        if process.returncode is None:
            for each in reversed(probe.family()):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            await process.wait()


async def _serves(probe: Probe, credentials: grpc.ChannelCredentials | None) -> None:
    ended = asyncio.create_task(probe.process.wait())
    try:
        for port in probe.ports:
            # The first attempts come before it listens. By default the next ones wait for seconds.
            async with channel_to(f"127.0.0.1:{port}", *_OFTEN, credentials=credentials) as channel:
                call = Stub(channel).Unary(pb.Ask(), wait_for_ready=True, timeout=60)
                first = asyncio.ensure_future(_answer(call))
                await asyncio.wait({first, ended}, return_when=asyncio.FIRST_COMPLETED)
                assert not ended.done(), f"the probe has ended: {probe.log.read_text()}"
                await first
    finally:
        ended.cancel()


async def _answer(call: grpc.aio.UnaryUnaryCall[pb.Ask, pb.Answer]) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        # It serves, and wants a token.
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise


def resident(process: psutil.Process) -> int:
    """
    Bytes that *process* holds; 0 when it has ended.
    """
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def free_ports(count: int) -> list[int]:
    """
    So many ports in a row that nobody listens on, and that are ours.
    """
    while True:
        first = random.SystemRandom().choice(_PORTS)
        found = list(range(first, first + count))
        if all(map(take, found)):
            return found
