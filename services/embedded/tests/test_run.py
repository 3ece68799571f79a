"""
`python -m services.embedded run`, as `make run` starts it: what goes wrong is one clear line, and nothing is left.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import modelyard
from modelyard.registry.v1 import models_pb2
from services.embedded.parts import EmbeddedError
from services.embedded.postgres import Postgres
from services.embedded.s3 import S3
from services.embedded.stack import Stack, StackSettings
from services.embedded.supervisor import Supervisor
from services.embedded.testing import scratch

ROOT = Path(__file__).resolve().parents[3]
PARENT = "namespaces/default"


@pytest.fixture
def state() -> Iterator[Path]:
    with scratch() as folder:
        yield folder / "state"


class Run:
    """
    A started `run`.
    """

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "services.embedded", "run", "--state", str(state), *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self.family: list[psutil.Process] = []

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError("".join(self.lines))

    def end(self, number: int | None = None) -> tuple[int, str]:
        """
        Send a signal if there is one, and wait: the exit code and all that was printed.
        """
        self.family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        if number is not None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + rest

    def left(self) -> list[psutil.Process]:
        """
        What still runs of it after a moment.
        """
        _, alive = psutil.wait_procs(self.family, timeout=10)
        return alive


def failed(state: Path, *arguments: str, **environment: str) -> str:
    """
    What a run that cannot start says; it says it without a traceback, exits with 1 and leaves nothing.
    """
    run = Run(state, *arguments, **environment)
    code, said = run.end()
    assert code == 1, said
    assert "Traceback" not in said
    assert not [process for process in psutil.process_iter() if str(state) in " ".join(_arguments(process))]
    return said


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def create(gateway: str, model_id: str) -> None:
    with modelyard.connect(gateway) as yard:
        request = models_pb2.CreateModelRequest(parent=PARENT, model_id=model_id, model=models_pb2.Model())
        yard.models.CreateModel(request)


def models(gateway: str) -> list[str]:
    with modelyard.connect(gateway) as yard:
        answer = yard.models.ListModels(models_pb2.ListModelsRequest(parent=PARENT))
        return [model.name.rpartition("/")[2] for model in answer.models]


def test_it_serves_until_ctrl_c_and_keeps_the_data(state: Path) -> None:
    """
    Ctrl-C stops everything with exit code 0; the next run has the data, and a kill -9 of it leaves no process.
    """
    first = Run(state, "--port", "0")
    first.until("curl http")
    gateway = json.loads((state / "run.json").read_text())["gateway"]
    create(gateway, "kept")
    metrics = json.loads((state / "run.json").read_text())["gateway_metrics"]
    with urllib.request.urlopen(metrics, timeout=10) as page:  # noqa: S310 - our own page
        assert b"envoy_server_live{} 1" in page.read()
    second_run = Run(state, "--port", "0")
    code, said = second_run.end()
    assert (code, "is running already" in said, gateway in said) == (1, True, True)
    assert "Traceback" not in said
    code, said = first.end(signal.SIGINT)
    assert (code, first.left()) == (0, [])
    assert "Traceback" not in said
    assert "modelyard --target" in said
    assert f"MODELYARD_STATE={state} .venv/bin/modelyard top" in said
    assert "grpcurl -plaintext" in said

    again = Run(state, "--port", "0")
    again.until("curl http")
    gateway = json.loads((state / "run.json").read_text())["gateway"]
    assert models(gateway) == ["kept"]
    create(gateway, "later")
    again.end(signal.SIGKILL)
    assert again.left() == []

    with Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql"])) as stack:
        assert stack.postgres.sql("SELECT count(*) FROM models", "modelyard") == "2"


def test_ctrl_c_while_starting_stops_what_was_started(state: Path) -> None:
    """
    A start that is interrupted leaves nothing behind, and says no traceback.
    """
    run = Run(state, "--port", "0")
    run.until("postgresql")
    code, said = run.end(signal.SIGINT)
    assert (code, run.left()) == (0, [])
    assert "Traceback" not in said


def test_a_taken_port_is_named_with_its_holder(state: Path) -> None:
    """
    A port that somebody listens on is named, with who it is and what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failed(state, "--port", str(port))
    assert f"port {port} cannot be used" in said
    assert f"process id {os.getpid()}" in said
    assert "make run PORT=" in said


def test_a_half_made_data_folder_is_named_and_kept(state: Path) -> None:
    """
    A data folder that is not whole is named; nothing in it is touched.
    """
    folder = Postgres.inside(state).data
    (folder / "PG_VERSION").unlink()
    said = failed(state, "--port", "0")
    assert f"{folder} is no whole PostgreSQL data folder" in said
    assert (folder / "postgresql.conf").exists()


def test_a_data_folder_of_another_version_is_named(state: Path) -> None:
    """
    Data of another PostgreSQL is not started on.
    """
    (Postgres.inside(state).data / "PG_VERSION").write_text("17\n")
    assert "holds data of PostgreSQL 17" in failed(state, "--port", "0")


def test_an_initialisation_that_was_killed_is_made_again(state: Path) -> None:
    """
    What an interrupted initdb left beside the data folder does not matter.
    """
    (state / "data" / "postgresql.new").mkdir(parents=True)
    (state / "data" / "postgresql.new" / "half").touch()
    assert (Postgres.inside(state).data / "PG_VERSION").exists()


def test_a_state_folder_that_cannot_be_made_is_named(state: Path) -> None:
    """
    A file in the place of the state folder is a clear line.
    """
    state.write_text("in the way")
    assert f"the state folder {state} cannot be written" in failed(state, "--port", "0")


def test_an_unknown_host_is_named(state: Path) -> None:
    """
    A wrong MODELYARD_HOST is a clear line before anything starts.
    """
    assert "MODELYARD_HOST" in failed(state, "--port", "0", MODELYARD_HOST="nonsense")


def test_a_service_that_dies_at_start_is_told_with_its_reason(state: Path) -> None:
    """
    A service that does not start ends the whole start, with what it said.
    """
    said = failed(state, "--port", "0", MODELYARD_MAX_MESSAGE_BYTES="none")
    assert "ended while starting (exit code 1)" in said
    assert "MODELYARD_MAX_MESSAGE_BYTES" in said


def test_two_state_folders_run_side_by_side(state: Path) -> None:
    """
    Two suites do not know of each other.
    """
    with (
        Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql", "valkey"])) as one,
        Stack(StackSettings(state=state.with_name("other"), gateway_port=0, parts=["postgresql", "valkey"])) as other,
    ):
        one.postgres.sql("CREATE DATABASE mine")
        assert "mine" not in other.postgres.sql("SELECT datname FROM pg_database").splitlines()
        assert one.valkey.port != other.valkey.port


def test_secrets_are_for_their_owner_only(state: Path) -> None:
    """
    The files that hold secrets cannot be read by others.
    """
    S3(state, 1).part()
    files = list((state / "secrets").iterdir())
    assert len(files) == 4
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_folder_that_only_root_may_enter(state: Path) -> None:
    """
    PostgreSQL, which does not run as root, gets a data folder elsewhere, and finds it again.
    """
    state.mkdir(mode=0o700)
    inside = state / "inside"
    for _ in range(2):
        postgres, supervisor = Postgres.inside(inside), Supervisor(inside / "log")
        try:
            supervisor.start([postgres.part()])
            postgres.sql("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (1)")
            count = postgres.sql("SELECT count(*) FROM kept")
        finally:
            supervisor.stop()
    assert count == "2"
    assert not str(postgres.data).startswith(str(state))
    postgres.forget()


def test_a_long_path_has_room_for_a_socket(state: Path) -> None:
    """
    A state folder whose path is longer than a socket's may be works.
    """
    postgres = Postgres.inside(state / ("x" * 100))
    supervisor = Supervisor(state / "log")
    try:
        supervisor.start([postgres.part()])
        assert postgres.sql("SELECT 1") == "1"
    finally:
        supervisor.stop()
        postgres.forget()


def test_a_part_that_dies_while_serving_ends_the_suite(state: Path) -> None:
    """
    The suite does not go on without one of its parts.
    """
    with Stack(StackSettings(state=state, gateway_port=0, parts=["valkey"])) as stack:
        threading.Timer(0.3, os.kill, (stack.pid("valkey"), signal.SIGKILL)).start()
        with pytest.raises(EmbeddedError, match=r"valkey ended by itself \(signal SIGKILL\)"):
            stack.serve(threading.Event())
