"""
Starts that fail, and services that lose a worker: one clear line, an exit code, and nothing left running.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from services.chassis.hosts import envoy
from services.chassis.tests import failing_service
from services.chassis.tests.behaviour.probe_process import ROOT, free_ports, running
from services.chassis.tests.conftest import Launch

_PROBE = "services.chassis.tests.probe"
_HIDDEN = "raise ModuleNotFoundError(\"No module named 'pyvoy'\", name='pyvoy')\n"


@pytest.fixture(params=["envoy", "grpcio"])
def host(request: pytest.FixtureRequest) -> str:
    """
    Each host in turn.
    """
    found: str = request.param
    if found == "envoy" and (lacks := envoy.missing()) is not None:
        pytest.skip(f"the Envoy host cannot run here: {lacks}")
    return found


async def _start(module: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """
    The exit code of a service that is expected to end by itself, and what it has printed.
    """
    listen, metrics = free_ports(2)
    own = {
        "MODELYARD_LISTEN": f"127.0.0.1:{listen}",
        "MODELYARD_METRICS": f"127.0.0.1:{metrics}",
        "MODELYARD_LOG_FORMAT": "text",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **own, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("setting", ["MODELYARD_LISTEN", "MODELYARD_METRICS"])
def test_taken_port(launch: Launch, host: str, setting: str) -> None:
    """
    The error names a port that is in use, and the setting that changes it.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = launch(MODELYARD_HOST=host, **{setting: address})
    assert code == 1
    assert said.count("\n") == 1
    assert f"{address} cannot be listened on (address already in use)" in said
    assert setting in said


def test_taken_port_of_another_worker(launch: Launch, host: str) -> None:
    """
    The ports of all workers are checked before any worker is started.
    """
    listen, second, metrics, _ = free_ports(4)
    with closing(socket.create_server(("127.0.0.1", second))):
        code, said = launch(
            "--workers=2",
            MODELYARD_HOST=host,
            MODELYARD_LISTEN=f"127.0.0.1:{listen}",
            MODELYARD_METRICS=f"127.0.0.1:{metrics}",
        )
    assert (code, said.count("\n")) == (1, 1)
    assert f"127.0.0.1:{second} cannot be listened on" in said


def test_wrong_settings(launch: Launch) -> None:
    """
    One error lists all invalid settings, without a traceback.
    """
    wrong = {"MODELYARD_HOST": "apache", "MODELYARD_DRAIN_SECONDS": "soon", "MODELYARD_DRAIN_DELAY_SECONDS": "-1"}
    code, said = launch(**wrong)
    assert code == 1
    assert "MODELYARD_HOST" in said
    assert "MODELYARD_DRAIN_SECONDS" in said
    assert "MODELYARD_DRAIN_DELAY_SECONDS" in said
    assert "Traceback" not in said


def test_a_network_is_not_served_without_access_control(launch: Launch) -> None:
    """
    A service that would be open to a network without access control does not start; the error says what to set.
    """
    code, said = launch("--check", MODELYARD_LISTEN="0.0.0.0:1")
    assert code == 1
    assert "MODELYARD_ACCESS=open-to-everybody" in said


async def test_composition_fails(host: str) -> None:
    """
    What the composition root raises is said in one line, without a traceback.
    """
    code, said = await _start("services.chassis.tests.failing_service", MODELYARD_HOST=host)
    assert (code, said.count("\n")) == (1, 1)
    assert failing_service.WHY in said


def test_check(launch: Launch, host: str) -> None:
    """
    --check starts nothing and says that all is well.
    """
    code, said = launch("--check", MODELYARD_HOST=host)
    assert (code, said.count("\n")) == (0, 1)


def test_wrong_command_line(launch: Launch) -> None:
    """
    An invalid command line has its own exit code.
    """
    code, said = launch("--workers=0")
    assert code == 2
    assert "--workers" in said


def test_without_envoy(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where the Envoy host cannot run, asking for it is an error that says why.
    """
    for name in [each for each in sys.modules if each.partition(".")[0] == "pyvoy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyvoy", None)
    code, said = launch(MODELYARD_HOST="envoy")
    assert (code, said.count("\n")) == (1, 1)
    assert "is not installed" in said
    assert "MODELYARD_HOST=grpcio" in said


async def test_auto_without_envoy(tmp_path: Path) -> None:
    """
    Where the Envoy host cannot run, auto serves with grpcio and says so once.
    """
    (tmp_path / "pyvoy.py").write_text(_HIDDEN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    async with running("auto", tmp_path, PYTHONPATH=path) as own:
        log = own.log.read_text()
        assert log.count("pyvoy is not installed") == 1
        assert "grpcio host" in log


async def test_worker_dies(host: str, tmp_path: Path) -> None:
    """
    A worker that dies is not replaced: the others end, and the launcher says which one it was, and how.
    """
    async with running(host, tmp_path, workers=2) as own:
        family = own.family()
        workers = sorted(psutil.Process(own.process.pid).children(), key=lambda each: each.pid)
        workers[1].send_signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            assert await own.process.wait() == 1
        assert "worker 1 ended with signal 9 (SIGKILL)" in own.log.read_text()
        assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
