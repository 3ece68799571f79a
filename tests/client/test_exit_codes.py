"""
Exit codes, interruption, and what a command prints besides its result.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from modelyard.cli.errors import FileError, RefusedError
from modelyard.cli.exit_codes import TABLE, code_of
from modelyard.cli.main import main
from tests.client.probe import Probe, probing
from tests.client.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]
CODES = {
    "INVALID_ARGUMENT": 2,
    "OUT_OF_RANGE": 2,
    "NOT_FOUND": 3,
    "UNAUTHENTICATED": 4,
    "PERMISSION_DENIED": 4,
    "ALREADY_EXISTS": 5,
    "ABORTED": 5,
    "FAILED_PRECONDITION": 5,
    "UNAVAILABLE": 6,
    "DEADLINE_EXCEEDED": 6,
    "RESOURCE_EXHAUSTED": 7,
}


@pytest.fixture
def probe() -> Iterator[Probe]:
    """
    A server that fails on request.
    """
    with probing() as running:
        yield running


@pytest.mark.parametrize("status", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK])
def test_exit_codes(probe: Probe, capsys: pytest.CaptureFixture[str], status: grpc.StatusCode) -> None:
    """
    The exit code is that of the status in the table, otherwise 1.
    """
    # Reads are retried on UNAVAILABLE.
    probe.failures.extend([status] * 4)
    assert main(["--target", probe.target, "models", "get", "m"]) == CODES.get(status.name, 1)
    assert capsys.readouterr().err.startswith(f"modelyard: {status.name}: ")


def test_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The help text and docs/cli.md list every exit code.
    """
    with pytest.raises(SystemExit):
        main(["--help"])
    assert TABLE in capsys.readouterr().out
    page = (ROOT / "docs" / "cli.md").read_text()
    for code in {0, 1, 130, *CODES.values()}:
        assert f"\n| {code} |" in page
        assert f" {code} " in TABLE


def test_failures_of_files() -> None:
    """
    The exit code of a file's failed call is that of the call; a local refusal is 1.
    """

    class Lost(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

    assert code_of(FileError("weights", Lost())) == 3
    assert code_of(FileError("weights", OSError())) == 1
    assert code_of(RefusedError("no")) == 1


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """
    A server that never answers.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"],
        ["versions", "get", "m"],
        ["aliases", "set", "m", "a", "1"],
        ["cards", "import", "m", "-"],
        ["assets", "put", "pyproject.toml"],
        ["watch"],
        ["audit"],
        ["cache", "status"],
    ],
)
def test_interrupted(silent: socket.socket, arguments: list[str]) -> None:
    """
    Ctrl-C ends every command with exit code 130 and no output.
    """
    port = silent.getsockname()[1]
    # The command is interrupted in its call; the one that reads standard input, before it.
    silent.settimeout(1 if "-" in arguments else 60)
    with interruptible(*arguments, "--target", f"127.0.0.1:{port}") as running:
        try:
            accepted = silent.accept()[0]
        except TimeoutError:
            accepted = None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
        if accepted is not None:
            accepted.close()
    assert (running.returncode, out, err, accepted is None) == (130, "", "", "-" in arguments)


def test_zero_values(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """
    JSON output includes fields that are 0, false or empty, as the HTTP API does.
    """
    assert main(["--target", probe.target, "--json", "models", "get", "m"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["parameterCount"], answer["task"], answer["labels"]) == ("0", "", {})
    assert "deleteTime" not in answer


def test_quiet(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """
    --quiet suppresses notes, not errors.
    """
    for arguments in (["models", "list"], ["namespaces", "delete", "n"]):
        assert main(["--target", probe.target, *arguments]) == 0
        assert capsys.readouterr().err
        for option in ("-q", "--quiet"):
            assert main(["--target", probe.target, *arguments, option]) == 0
            assert capsys.readouterr() == ("", "")
    probe.failures.append(grpc.StatusCode.NOT_FOUND)
    assert main(["-q", "--target", probe.target, "models", "get", "m"]) == 3
    assert capsys.readouterr().err.startswith("modelyard: NOT_FOUND")


def test_usage_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """
    An unknown option prints the usage of the command, not of the program.
    """
    with pytest.raises(SystemExit) as leaving:
        main(["models", "list", "--filter", "x"])
    said = capsys.readouterr().err
    assert (leaving.value.code, said.split(" [")[0]) == (2, "usage: modelyard models list")
    assert "unrecognized arguments: --filter" in said


@pytest.mark.parametrize("command", [["models", "list"], ["deployments", "list"]])
def test_a_namespace_both_ways(probe: Probe, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """
    List commands accept the namespace as an option or as an argument; two different ones are a usage error.
    """
    for given in ([], ["n"], ["--namespace", "n"], ["namespaces/n", "--namespace", "n"]):
        assert main(["--target", probe.target, *command, *given]) == 0
    with pytest.raises(SystemExit) as leaving:
        main(["--target", probe.target, *command, "n", "--namespace", "other"])
    assert (leaving.value.code, "two namespaces" in capsys.readouterr().err) == (2, True)
