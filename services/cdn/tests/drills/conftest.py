"""
An S3 server that is killed and whose disk is filled, on a small tmpfs where root can mount one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import psutil
import pytest

from embedded.link import Link
from embedded.parts import free_port
from embedded.s3 import S3
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from services.cdn.tests.calls import failure
from services.cdn.tests.conftest import World, client_of

_DISK_MIB = 320
#: Free bytes of the full disk: enough for the server's logs, not for a part.
_LEFT = 2 << 20
Value = TypeVar("Value")


class Machine:
    """
    An S3 server in a process of its own.

    Args:
        state: its folder.
        small: whether its data is on a disk of its own, which may be filled.
    """

    def __init__(self, state: Path, *, small: bool) -> None:
        self.s3, self._small = S3(state, free_port()), small
        self._ballast = state / "data" / "ballast"
        self._supervisor = Supervisor(state / "log")
        # Volumes that fit the disk, and enough of them for every bucket.
        self._part = self.s3.part(volumes=100)
        self._supervisor.start([self._part])

    async def kill(self) -> None:
        """
        End it with -9.
        """
        await asyncio.to_thread(self._supervisor.kill, "s3")

    async def revive(self) -> None:
        """
        Start it again with its data.
        """
        await asyncio.to_thread(self._supervisor.start, [self._part])

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """
        Restart it after the block, in which it is killed.
        """
        try:
            yield
        finally:
            await self.revive()

    def fill(self) -> None:
        """
        Fill the disk so that no part fits. Skips the test without a disk of its own.
        """
        if not self._small:
            pytest.skip("a small disk needs `mount -t tmpfs`, which needs root on Linux")
        disk = os.statvfs(self._ballast.parent)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - _LEFT)

    def empty(self) -> None:
        """
        Free the disk again.
        """
        self._ballast.unlink(missing_ok=True)

    def stop(self) -> None:
        """
        Stop it.
        """
        self._supervisor.stop()


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """
    The drills' S3 server.
    """
    with scratch() as state, _disk(state / "data") as small:
        machine = Machine(state, small=small)
        try:
            yield machine
        finally:
            machine.stop()


@pytest.fixture(scope="session")
def own_world(machine: Machine, new_assets_database: Callable[[], str]) -> World:
    """
    Services on the drills' S3 server, without a link in between.
    """
    link = Link(machine.s3.port)
    link.port = machine.s3.port
    return World(machine.s3, client_of(machine.s3), link, new_assets_database)


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    folder.mkdir()
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _run("umount", str(folder))


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    except OSError:
        return False


def kill(launcher: int) -> None:
    """
    Kill the processes of a service with SIGKILL.
    """
    for process in psutil.Process(launcher).children(recursive=True):
        process.kill()


async def patiently(call: Callable[[], Awaitable[Value]]) -> Value:
    """
    The result of *call* once S3 serves again: it loads its volumes some seconds after it answers.
    """
    for _ in range(150):
        try:
            return await call()
        except grpc.RpcError as error:
            if failure(error).code is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.2)
    pytest.fail("S3 does not come back")
