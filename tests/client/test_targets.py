"""
Where a client connects to and who it says it is: addresses, proxies, tokens, and what the environment says of them.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import grpc
import pytest

import modelyard
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2, namespaces_pb2
from tests.client.probe import Probe, probing

GET = models_pb2.GetModelRequest(name="namespaces/default/models/m")
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The environment says nothing at first.
    """
    for name in (*PROXIES, "MODELYARD_TARGET", "MODELYARD_TOKEN", "MODELYARD_TOKEN_FILE", "MODELYARD_CA_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def probe() -> Iterator[Probe]:
    """
    A server that remembers.
    """
    with probing() as running:
        yield running


def sent(probe: Probe) -> str | None:
    """
    The token of the last call.
    """
    return probe.calls[-1][1].get("authorization")


@pytest.mark.parametrize(
    "form", ["{}", " {}\n", "http://{}", "http://{}/", "HTTP://{}", "dns:///{}", "dns:{}", "ipv4:{}"]
)
def test_targets_that_work(probe: Probe, form: str) -> None:
    """
    An address is host:port, as browsers show it or as gRPC names it; blanks around it are nothing.
    """
    with modelyard.connect(form.format(probe.target)) as yard:
        yard.models.GetModel(GET)
    assert len(probe.calls) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("yard.example", "names no port: write yard.example:8080, or https://yard.example for port 443"),
        ("dns:///yard.example", "names no port"),
        ("yard.example:", "names no port"),
        ("yard.example:http", "has no port but 'http'"),
        ("yard.example:70000", "has no port but '70000'"),
        ("http://yard.example:80/registry", "has a path: /registry. A gateway is at the root of its address"),
        ("https://yard.example?x=1", "has a path: ?x=1"),
        ("yard.example:80/registry", "has a path: /registry"),
        ("yard example:80", "contains a blank"),
        ("http://me:secret@yard.example", "contains a user: clients authenticate with a token"),
        ("ftp://yard.example:1", "begins with ftp://; a target is host:port or an https:// address"),
        ("::1", "is an IPv6 address: write [::1]:8080"),
        ("fe80::1:8080", "is an IPv6 address: write [fe80::1:8080]:8080"),
        (":8080", "names no host"),
        ("", "is empty"),
        ("https://", "names no host"),
    ],
)
def test_targets_that_are_none(target: str, said: str) -> None:
    """
    What is no address is refused when connecting, by both clients, with what is wrong with it and without secrets.
    """
    for connect in (modelyard.connect, modelyard.aio.connect):
        with pytest.raises(ValueError, match=re.escape(said)) as refused:
            connect(target)
        assert "secret" not in str(refused.value)


def test_targets_in_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The command line tells it as a wrong command line.
    """
    with pytest.raises(SystemExit) as leaving:
        main(["--target", "yard.example", "models", "list"])
    assert (leaving.value.code, "names no port" in capsys.readouterr().err) == (2, True)


@contextmanager
def proxying(probe: Probe) -> Iterator[tuple[str, list[str]]]:
    """
    An HTTP proxy that leads every CONNECT to *probe*: its address, and what it was asked for.
    """
    asked: list[str] = []

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with closing(source), closing(sink), suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            asked.append(head.split(b" ")[1].decode())
            host, _, port = probe.target.rpartition(":")
            server = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for ends in ((client.dup(), server.dup()), (server, client)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.close()


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
def test_proxies(probe: Probe, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """
    A proxy of the environment is used for other hosts, as gRPC does it.
    """
    with proxying(probe) as (address, asked):
        monkeypatch.setenv(variable, address)
        with modelyard.connect("yard.test:8080") as yard:
            yard.models.GetModel(GET, timeout=10)
    assert asked == ["yard.test:8080"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_for_loopback(probe: Probe, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """
    No proxy leads to this machine's own loopback: what listens there is asked directly.
    """
    for variable in PROXIES[:3]:
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with modelyard.connect(f"{host}:{probe.target.rpartition(':')[2]}") as yard:
        yard.models.GetModel(GET, timeout=10)
    assert len(probe.calls) == 1


@pytest.mark.parametrize(("exceptions", "through"), [("", True), ("other.test,.test", False), ("yard.test", False)])
def test_an_error_says_the_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exceptions: str, through: bool
) -> None:
    """
    When nothing answers, the command line says through which proxy it asked, without the proxy's password.
    """
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", exceptions)
    assert main(["--target", "yard.test:8080", "--deadline", "8", "models", "list"]) != 0
    said = capsys.readouterr().err
    assert (
        "through the proxy http://127.0.0.1:9 ($https_proxy; $no_proxy names hosts to connect to directly)" in said
    ) is through
    assert "secret" not in said


@pytest.mark.parametrize("token", ["abc", "abc\n", " abc\r\n"])
def test_a_token_with_a_line_break(probe: Probe, token: str) -> None:
    """
    Blanks and line breaks around a token are nothing.
    """
    with modelyard.connect(probe.target, token) as yard:
        yard.models.GetModel(GET)
    assert sent(probe) == "Bearer abc"


@pytest.mark.parametrize("token", ["a\nsecret", "a secret", "sécret", "a\x00secret"])
def test_tokens_that_are_none(tmp_path: Path, token: str) -> None:
    """
    What no header can have is refused when connecting, and not shown.
    """
    file = tmp_path / "token"
    file.write_text(token)
    for given in ({"token": token}, {"token_file": file}):
        with pytest.raises(ValueError, match="is not a token: it has only visible ASCII characters") as refused:
            modelyard.connect("127.0.0.1:1", **given)
        assert "secret" not in str(refused.value)


def test_a_file_that_goes_bad_leaves_the_token(probe: Probe, tmp_path: Path) -> None:
    """
    A token file that is empty or torn for a moment leaves the token before it.
    """
    file = tmp_path / "token"
    file.write_text("one\n")
    with modelyard.connect(probe.target, token_file=file) as yard:
        for content, token in (("", "one"), ("t\nwo", "one"), ("three", "three")):
            file.write_text(content)
            yard.models.GetModel(GET)
            assert sent(probe) == f"Bearer {token}"


def test_the_environment(probe: Probe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Target and token come from the environment, for the library and the command line alike; what is given wins, and an
    empty token is none.
    """
    file = tmp_path / "token"
    file.write_text("of-a-file\n")
    monkeypatch.setenv("MODELYARD_TARGET", probe.target)
    monkeypatch.setenv("MODELYARD_TOKEN", "of-the-environment")
    for arguments, token in (
        ({}, "Bearer of-the-environment"),
        ({"token": "mine"}, "Bearer mine"),
        ({"token_file": file}, "Bearer of-a-file"),
        ({"token": ""}, None),
    ):
        with modelyard.connect(**arguments) as yard:
            yard.models.GetModel(GET)
        assert sent(probe) == token
    assert main(["models", "get", "m"]) == 0
    assert sent(probe) == "Bearer of-the-environment"
    assert main(["models", "get", "m", "--token-file", str(file)]) == 0
    assert sent(probe) == "Bearer of-a-file"
    monkeypatch.setenv("MODELYARD_TOKEN_FILE", str(file))
    with pytest.raises(ValueError, match="MODELYARD_TOKEN and MODELYARD_TOKEN_FILE are set: one is enough"):
        modelyard.connect()
    monkeypatch.delenv("MODELYARD_TOKEN")
    assert main(["models", "get", "m"]) == 0
    assert sent(probe) == "Bearer of-a-file"


def test_who_you_are(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A call that needs a token says how the command line takes one.
    """
    probe.failures.append(grpc.StatusCode.UNAUTHENTICATED)
    assert main(["--target", probe.target, "models", "get", "m"]) != 0
    assert "(`modelyard login`, --token-file or $MODELYARD_TOKEN provides the token)" in capsys.readouterr().err


@pytest.mark.parametrize("request_", [{"name": "x"}, "x", namespaces_pb2.GetNamespaceRequest(), None])
async def test_requests_of_another_type(probe: Probe, request_: object) -> None:
    """
    A request that is not the message of its method is a TypeError that names both, and no call.
    """
    with modelyard.connect(probe.target) as yard:
        with pytest.raises(TypeError, match=r"GetModel takes a modelyard.registry.v1.GetModelRequest, not a "):
            yard.models.GetModel(request_)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"WatchChanges takes a modelyard.changes.v1.WatchChangesRequest, not a "):
            list(yard.changes.WatchChanges(request_))  # type: ignore[arg-type]
    async with modelyard.aio.connect(probe.target) as other:
        with pytest.raises(TypeError, match=r"GetModel takes a modelyard.registry.v1.GetModelRequest, not a "):
            await other.models.GetModel(request_)  # type: ignore[arg-type]
    assert probe.calls == []


_FORKS = """
import os, sys, modelyard
from modelyard.registry.v1 import models_pb2
get = models_pb2.GetModelRequest(name="namespaces/default/models/m")
with modelyard.connect(sys.argv[1]) as yard:
    yard.models.GetModel(get)
    child = os.fork()
    if not child:
        with modelyard.connect(sys.argv[1]) as own:
            own.models.GetModel(get, timeout=10)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    yard.models.GetModel(get, timeout=10)
"""


def test_fork(probe: Probe) -> None:
    """
    After a fork the child makes a client of its own, and the parent's goes on.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, probe.target], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, len(probe.calls)) == (0, 3), done.stderr
