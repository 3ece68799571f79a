"""
`python -m embedded run`, as `make run` starts it: what goes wrong is one clear line, and nothing is left.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import grpc
import psutil
import pytest
import redis
from botocore.config import Config

import embedded.__main__ as program
import modelyard
from embedded.parts import EmbeddedError
from embedded.postgres import Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.cli.main import main as cli
from modelyard.registry.v1 import models_pb2

ROOT = Path(__file__).resolve().parents[2]
PARENT = "namespaces/default"


@pytest.fixture
def state() -> Iterator[Path]:
    with scratch() as folder:
        yield folder / "state"


# These tests may run in the background of a shell, which ignores SIGINT. The handler is set by the program itself: a
# function between fork and exec (`preexec_fn`) runs grpcio's fork handlers, which can end the new process.
_HANDLER = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
COMPLETE = f"{_HANDLER}import runpy; runpy.run_module('embedded', run_name='__main__', alter_sys=True)"
# Runs `python -m embedded` with some parts only: what it does with a signal does not depend on how many there are.
PARTIAL = f"""{_HANDLER}
import sys
from functools import partial
import embedded.__main__ as program
program.StackSettings = partial(program.StackSettings, parts=sys.argv.pop(1).split(","))
sys.exit(program.main())
"""


class Run:
    """
    A started `python -m embedded run`.

    Args:
        parts: only these and what they need, separated by commas; empty means all.
    """

    def __init__(self, state: Path, *arguments: str, parts: str = "") -> None:
        code = [PARTIAL, parts] if parts else [COMPLETE]
        command = [sys.executable, "-c", *code, "run", "--state", str(state), "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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
        _, alive = psutil.wait_procs(self.family, timeout=20)
        return alive


@pytest.fixture
def run_here(
    state: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str]]]:
    """
    Runs `python -m embedded run` in this process, with some parts only: its exit code and what it printed. It prints no
    traceback and leaves no process.
    """

    def run(port: int = 0, parts: Sequence[str] = ()) -> tuple[int, str]:
        monkeypatch.setattr(program, "StackSettings", partial(StackSettings, parts=parts))
        monkeypatch.setattr(program, "_started", threading.Event())
        before = set(psutil.Process().children(recursive=True))
        code = program.main(["run", "--state", str(state), "--port", str(port)])
        printed = "".join(capfd.readouterr())
        assert "Traceback" not in printed
        own = set(psutil.Process().children(recursive=True)) - before
        assert not [process for process in own if str(state) in " ".join(_arguments(process))]
        return code, printed

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def failed(run_here: Callable[..., tuple[int, str]]) -> Callable[..., str]:
    """
    What a run that cannot start prints; it exits with 1.
    """

    def run(port: int = 0, parts: Sequence[str] = ()) -> str:
        code, printed = run_here(port, parts)
        assert code == 1, printed
        return printed

    return run


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.timeout(400)
@pytest.mark.own_suite
def test_it_serves_until_ctrl_c_and_keeps_the_data(state: Path, failed: Callable[..., str]) -> None:
    """
    A suite with TLS and access control: the printed commands work, a second run of it is refused, and Ctrl-C stops
    everything with exit code 0. Later runs have the data, also after a kill -9, which leaves no process.
    """
    first = Run(state, "--access", "on", "--tls", "on")
    first.until("  curl ")
    gateway = json.loads((state / "run.json").read_text())["gateway"]
    works(*suggested(first.lines))
    assert mode(state / "access" / "token") == 0o600
    assert any("-protoset" in line and (state / "contracts.binpb").exists() for line in first.lines)
    with modelyard.connect(gateway, ca_file=state / "tls" / "ca.pem", token_file=state / "access" / "token") as client:
        model = models_pb2.Model()
        client.models.CreateModel(models_pb2.CreateModelRequest(parent=PARENT, model_id="kept", model=model))
    metrics = json.loads((state / "run.json").read_text())["gateway_metrics"]
    with urllib.request.urlopen(metrics, timeout=10) as page:  # noqa: S310 - our own page
        assert b"envoy_server_live{} 1" in page.read()
    printed = failed()
    assert "is running already" in printed
    assert gateway in printed
    code, printed = first.end(signal.SIGINT)
    assert (code, first.left()) == (0, [])
    assert "Traceback" not in printed
    assert f"MODELYARD_STATE={state} .venv/bin/modelyard top" in printed
    assert not (state / "run.json").exists()

    # PostgreSQL, whose user may be another one; a service with worker processes and an Envoy; and what they need.
    again = Run(state, parts="postgresql,cache")
    again.until("  curl ")
    postgres = Postgres.inside(state)
    assert postgres.sql("SELECT count(*) FROM models", "modelyard") == "1"
    postgres.sql("CREATE TABLE later AS SELECT 1", "modelyard")
    again.end(signal.SIGKILL)
    assert len(again.family) > 4
    assert again.left() == []
    assert not (state / "run.json").exists()

    with Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql"])) as stack:
        assert (
            stack.postgres.sql("SELECT count(*) FROM models, pg_tables WHERE tablename = 'later'", "modelyard") == "1"
        )


def works(client: str, curl: str) -> None:
    executable, *arguments = shlex.split(client)
    assert (ROOT / executable).exists()
    assert cli(arguments) == 0
    command = ["bash", "-c", curl.replace("curl ", "curl -fsS ")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (curl, done.stdout, done.stderr)


def suggested(lines: Sequence[str]) -> list[str]:
    """
    The commands that are printed for the client and for curl.
    """
    tried = [line.strip() for line in lines if line.startswith(("  .venv/bin/modelyard --target", "  curl "))]
    assert len(tried) == 2
    return tried


@pytest.mark.parametrize("access", ["off", "on"])
def test_the_suggested_commands_work(run_servers: Servers, access: str) -> None:
    """
    Without TLS, with and without access control: the printed commands have the token that calls need, which is in a
    file that only its owner reads.
    """
    kind = "plain" if access == "off" else f"access {access}"
    stack = run_servers.stack(kind, StackSettings(state=Path(), gateway_port=0, access=access))
    state = stack.settings.state
    printed = program.welcome(stack, state, 1.5)
    works(*suggested(printed.splitlines()))
    assert "grpcurl -plaintext" in printed
    assert f"MODELYARD_STATE={state} .venv/bin/modelyard top" in printed
    if access == "on":
        assert mode(state / "access" / "token") == 0o600
        assert "-protoset" in printed
        assert (state / "contracts.binpb").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_starting_stops_what_was_started(state: Path, number: int) -> None:
    """
    A start that is interrupted leaves nothing behind, and prints no traceback.
    """
    # The other part is not ready yet then.
    run = Run(state, parts="registry-migration,valkey" if number == signal.SIGINT else "s3,valkey")
    run.until("valkey")
    code, printed = run.end(number)
    assert (code, run.left()) == (0, [])
    assert "Traceback" not in printed
    assert "Modelyard is ready" not in printed


@contextmanager
def once_it_serves(state: Path, act: Callable[[int], None]) -> Iterator[None]:
    """
    Act when the run in this process serves.

    Args:
        act: is given the process id of Valkey.
    """

    def watch() -> None:
        if program._started.wait(60):
            port = urlsplit(json.loads((state / "run.json").read_text())["valkey"]).port
            # It changes its command line to its name and address.
            (valkey,) = [each for each in psutil.Process().children() if f":{port}" in " ".join(_arguments(each))]
            act(valkey.pid)

    watcher = threading.Timer(0.2, watch)
    watcher.start()
    yield
    watcher.join()


def test_sigterm_while_serving_stops_it(state: Path, run_here: Callable[..., tuple[int, str]]) -> None:
    """
    SIGTERM stops everything with exit code 0.
    """
    with once_it_serves(state, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        code, printed = run_here(parts=["valkey"])
    assert code == 0
    assert "Stopped; the data is kept" in printed


def test_a_part_that_dies_while_serving_ends_the_run(state: Path, failed: Callable[..., str]) -> None:
    """
    The suite does not go on without one of its parts: exit code 1, with the part's name.
    """
    with once_it_serves(state, lambda valkey: os.kill(valkey, signal.SIGKILL)):
        printed = failed(parts=["valkey"])
    assert "cannot go on: valkey ended by itself (signal SIGKILL)" in printed


def test_a_taken_port_is_named_with_its_holder(failed: Callable[..., str]) -> None:
    """
    A port that somebody listens on is named, with who it is and what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        printed = failed(port)
    assert f"port {port} cannot be used" in printed
    assert f"process id {os.getpid()}" in printed
    assert "make run PORT=" in printed


def test_an_incomplete_data_folder_is_named_and_kept(state: Path, failed: Callable[..., str]) -> None:
    """
    A data folder without its version is named; nothing in it is touched.
    """
    folder = state / "data" / "postgresql"
    folder.mkdir(parents=True)
    (folder / "postgresql.conf").touch()
    assert f"{folder} is no whole PostgreSQL data folder" in failed()
    assert [path.name for path in folder.iterdir()] == ["postgresql.conf"]


def test_a_data_folder_of_another_version_is_named(state: Path, failed: Callable[..., str]) -> None:
    """
    PostgreSQL is not started on the data of another version.
    """
    folder = state / "data" / "postgresql"
    folder.mkdir(parents=True)
    (folder / "PG_VERSION").write_text("17\n")
    assert "holds data of PostgreSQL 17" in failed()


def test_a_state_folder_that_cannot_be_made_is_named(state: Path, failed: Callable[..., str]) -> None:
    """
    A file in the place of the state folder is one clear line.
    """
    state.write_text("in the way")
    assert f"the state folder {state} cannot be written" in failed()


def test_an_unknown_host_is_named(state: Path, failed: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A wrong MODELYARD_HOST is one clear line before anything starts.
    """
    monkeypatch.setenv("MODELYARD_HOST", "nonsense")
    assert "MODELYARD_HOST is 'nonsense'" in failed()
    assert not (state / "data").exists()


def test_a_service_that_dies_at_start_is_told_with_its_reason(
    failed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A service that does not start ends the whole start, with what it said.
    """
    monkeypatch.setenv("MODELYARD_MAX_MESSAGE_BYTES", "none")
    printed = failed(parts=["cache"])
    assert "cannot start: cache ended while starting (exit code 1)" in printed
    assert "MODELYARD_MAX_MESSAGE_BYTES" in printed


def test_two_state_folders_run_side_by_side(stack: Stack, suite: Stack) -> None:
    """
    Two suites do not know of each other.
    """
    name = f"of_one_{suite.postgres.port}_{os.getpid()}"
    stack.postgres.sql(f"CREATE DATABASE {name}")
    assert name in stack.postgres.sql("SELECT datname FROM pg_database").splitlines()
    assert name not in suite.postgres.sql("SELECT datname FROM pg_database").splitlines()
    assert stack.valkey.port != suite.valkey.port


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
    The data servers alone, in a state folder where the initialisation of PostgreSQL was interrupted once.
    """
    with scratch() as folder:
        state = folder / "state"
        (state / "data" / "postgresql.new").mkdir(parents=True)
        (state / "data" / "postgresql.new" / "half").touch()
        (state / "lock").touch()
        with Stack(StackSettings(state=state, gateway_port=0, parts=["postgresql", "valkey", "s3"])) as running:
            yield running
            running.kill("s3")


def test_an_interrupted_initialisation_is_repeated(suite: Stack) -> None:
    """
    What an interrupted initdb left beside the data folder does not matter.
    """
    assert (suite.postgres.data / "PG_VERSION").exists()
    assert not (suite.settings.state / "data" / "postgresql.new").exists()


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
    Where the state folder's path is too long for a socket, the server works all the same: its socket is in a folder of
    ours alone, with a random name, which is found again; one that is not ours any more is not used.
    """
    long = state / ("x" * 100)
    postgres, supervisor = Postgres.inside(long), Supervisor(state / "log")
    try:
        supervisor.start([postgres.part()])
        assert postgres.sql("SELECT 1") == "1"
        supervisor.stop()
        folder = postgres.socket_folder
        assert mode(folder) == 0o700
        assert not folder.is_relative_to(state)
        assert Postgres.inside(long).socket_folder == folder
        shutil.rmtree(folder)
        folder.symlink_to(state)
        assert Postgres.inside(long).socket_folder != folder
        folder.unlink()
    finally:
        supervisor.stop()
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
