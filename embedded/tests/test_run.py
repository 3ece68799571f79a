"""
`python -m embedded run`, as `make run` starts it: what goes wrong is one clear line, and nothing is left.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import grpc
import psutil
import pytest
import redis
from botocore.config import Config

import modelyard
from embedded.parts import EmbeddedError
from embedded.postgres import Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.registry.v1 import models_pb2

ROOT = Path(__file__).resolve().parents[2]
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
        command = [sys.executable, "-m", "embedded", "run", "--state", str(state), *arguments]
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


@pytest.mark.own_suite
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
    assert not (state / "run.json").exists()

    with Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql"])) as stack:
        assert stack.postgres.sql("SELECT count(*) FROM models", "modelyard") == "2"


@pytest.mark.own_suite
@pytest.mark.parametrize("tls", ["off", "on"])
def test_what_it_says_to_try_works_with_access_control(state: Path, tls: str) -> None:
    """
    The commands that are printed have the token that calls need, which is in a file of its owner's.
    """
    run = Run(state, "--port", "0", "--access", "on", "--tls", tls)
    run.until("  curl ")
    try:
        tried = [line.strip() for line in run.lines if line.startswith(("  .venv/bin/modelyard --target", "  curl "))]
        assert len(tried) == 2
        for command in tried:
            done = subprocess.run(
                ["bash", "-c", command.replace("curl ", "curl -fsS ")],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert mode(state / "access" / "token") == 0o600
        assert any("-protoset" in line and (state / "contracts.binpb").exists() for line in run.lines)
    finally:
        run.end(signal.SIGINT)
    assert run.left() == []


@pytest.mark.own_suite
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


@pytest.mark.own_suite
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
    Valkey.closed(state, 1).part()
    assert mode(state / "secrets") == 0o700
    files = [file for file in (state / "secrets").iterdir() if file.is_file()]
    assert {file.name for file in files} >= {"s3-secret-key", "s3-credentials", "valkey-password", "valkey.conf"}
    assert {mode(file) for file in files} == {0o600}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(scope="module")
def suite() -> Iterator[Stack]:
    """
    The data servers and a gateway's worth of nothing else.
    """
    with scratch() as folder:
        state = folder / "state"
        with Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql", "valkey", "s3"])) as running:
            yield running
            running.kill("s3")


def test_nobody_else_enters_the_state_folder(suite: Stack) -> None:
    """
    What a run keeps, and what its parts say, is its owner's; PostgreSQL's user, where that is another one, may only go
    through to its own folder.
    """
    state = suite.settings.state
    closed = 0o710 if os.geteuid() == 0 else 0o700
    assert [mode(state), mode(state / "data"), mode(state / "log")] == [closed, closed, 0o700]
    assert {mode(log) for log in (state / "log").glob("*.log")} == {0o600}
    assert mode(state / "run.json") == 0o600
    assert mode(state / "data" / "postgresql") == mode(state / "data" / "s3") == 0o700


def test_valkey_asks_for_a_password(suite: Stack) -> None:
    """
    It is in a file for the services, and on nobody's command line.
    """
    with redis.Redis(port=suite.valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("x")
    password = suite.valkey.password_file.read_text()
    assert password not in " ".join(psutil.Process(suite.pid("valkey")).cmdline())
    assert password not in (suite.settings.state / "run.json").read_text()
    with redis.Redis(port=suite.valkey.port, password=password) as client:
        assert client.ping()
    assert suite.valkey.environment["MODELYARD_VALKEY_PASSWORD_FILE"] == str(suite.valkey.password_file)


#: What every door of SeaweedFS that has a name of its own is asked for.
DOORS = {
    "filer.port": ["/buckets/assets/", "/buckets/assets/static/login.html", "/.tus/x"],
    "master.port": ["/dir/assign", "/vol/grow?count=1", "/col/delete?collection=assets", "/submit", "/dir/status"],
    "volume.port": ["/1,01637037d6"],
}


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("door", DOORS)
def test_bytes_are_reached_through_s3_alone(suite: Stack, door: str, method: str) -> None:
    """
    Without the keys of S3 nobody reads, writes or deletes at the filer, the master or the volumes: neither another user
    nor a page in a browser with a form.
    """
    form = "multipart/form-data; boundary=b"
    body = b"--b\r\ncontent-disposition: form-data; name=file; filename=x\r\n\r\nevil\r\n--b--\r\n"
    for path in DOORS[door]:
        connection = http.client.HTTPConnection("127.0.0.1", weed_port(suite, door), timeout=10)
        sent = body if method in ("PUT", "POST") else None
        connection.request(method, path, sent, {"content-type": form} if sent else {})
        assert connection.getresponse().status == (401 if door == "volume.port" else 404), path
        connection.close()


@pytest.mark.parametrize("door", ["filer", "master", "volume", "s3", "admin"])
def test_parts_of_s3_show_each_other_certificates(suite: Stack, door: str) -> None:
    """
    Its parts talk gRPC at ports of their own, where nobody without their certificate is let in.
    """
    with grpc.insecure_channel(f"127.0.0.1:{weed_port(suite, f'{door}.port.grpc')}") as channel:
        ask = channel.unary_unary("/master_pb.Seaweed/Statistics")  # type: ignore[call-arg]  # bytes need no serializers
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_s3_works_with_its_keys(suite: Stack) -> None:
    """
    Objects of some megabytes, which are split, go in and come back; without keys they do not.
    """
    client = boto3.client(
        "s3",
        endpoint_url=suite.s3.endpoint,
        region_name=REGION,
        aws_access_key_id=suite.s3.access_key_file.read_text(),
        aws_secret_access_key=suite.s3.secret_key_file.read_text(),
        config=Config(s3={"addressing_style": "path"}),
    )
    body = os.urandom(9 << 20)
    client.put_object(Bucket=BUCKET, Key="large", Body=body)
    assert client.get_object(Bucket=BUCKET, Key="large")["Body"].read() == body
    client.close()
    connection = http.client.HTTPConnection("127.0.0.1", suite.s3.port, timeout=10)
    connection.request("GET", f"/{BUCKET}/large")
    assert connection.getresponse().status == 403
    connection.close()


def weed_port(suite: Stack, name: str) -> int:
    (found,) = [word for word in psutil.Process(suite.pid("s3")).cmdline() if word.startswith(f"-{name}=")]
    return int(found.partition("=")[2])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_postgresql_has_its_own_group(suite: Stack) -> None:
    """
    The user that PostgreSQL runs as is in the group that is its own, and in no other.
    """
    process, user = psutil.Process(suite.pid("postgresql")), pwd.getpwnam("embedded_postgres")
    assert set(process.uids()) == {user.pw_uid}
    assert set(process.gids()) == {user.pw_gid}
    groups = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "Groups:" in line)
    assert groups.split()[1:] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps PostgreSQL's data elsewhere")
@pytest.mark.parametrize("planted", ["link", "folder", "open"])
def test_a_planted_folder_is_not_used(state: Path, planted: str) -> None:
    """
    A folder in the place of the data that somebody else has made, or a link there, is named and left alone.
    """
    state.mkdir(mode=0o700)
    inside, elsewhere = state / "inside", state / "target"
    elsewhere.mkdir()
    home = Path("/var/tmp") / f"modelyard-{hashlib.sha256(str(inside.resolve()).encode()).hexdigest()[:12]}"  # noqa: S108
    if planted == "link":
        home.symlink_to(elsewhere)
    else:
        home.mkdir()
        home.chmod(0o777 if planted == "open" else 0o755)
        os.chown(home, 0 if planted == "open" else 65534, 0)
    try:
        with pytest.raises(EmbeddedError, match=f"{home} is not a folder of ours alone"):
            Postgres.inside(inside)
        assert list(elsewhere.iterdir()) == []
    finally:
        home.unlink() if planted == "link" else home.rmdir()


def test_a_folder_for_sockets_has_no_name_that_can_be_known(state: Path) -> None:
    """
    Where the state folder's path is too long for a socket, it is in a folder of ours alone, of a name by chance,
    which is found again; one that is not ours any more is not.
    """
    postgres = Postgres.inside(state / ("x" * 100))
    try:
        folder = postgres.socket_folder
        assert mode(folder) == 0o700
        assert not folder.is_relative_to(state)
        assert Postgres.inside(state / ("x" * 100)).socket_folder == folder
        folder.rmdir()
        folder.symlink_to(state)
        assert Postgres.inside(state / ("x" * 100)).socket_folder != folder
        folder.unlink()
    finally:
        postgres.forget()


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
