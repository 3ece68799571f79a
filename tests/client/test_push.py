"""
`modelyard versions push`: a folder becomes a version, however often it is interrupted.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from modelyard.cli.main import main
from tests.client.memory import PART, Memory, Server
from tests.client.memory_registry import PENDING, READY, Registry
from tests.client.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("scaled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    A folder with a large file, one that is there twice, an empty one, and a name in another script.
    """
    root = tmp_path / "net"
    (root / "tokenizer").mkdir(parents=True)
    (root / "weights.bin").write_bytes(random.SystemRandom().randbytes(12 * PART))
    (root / "config.json").write_text('{"layers": 1}')
    (root / "tokenizer" / "config.json").write_text('{"layers": 1}')
    (root / "tokenizer" / "词表.txt").write_text("一")
    (root / "empty").touch()
    return root


def _push(server: Server, folder: Path, *more: str, model: str = "m") -> int:
    return main(["--target", server.target, "versions", "push", model, str(folder), *more])


def test_a_folder_becomes_a_version(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The version names every file by path, digest, size and type; what is there twice is sent once; the name is printed.
    """
    code = _push(server, folder, "--alias", "production", "--description", "first", "--label", "a=b", "--private")
    printed = capsys.readouterr()
    assert (code, printed.out) == (0, "namespaces/default/models/m/versions/1\n")
    (version,) = registry.versions
    assert [artifact.path for artifact in version.artifacts] == [
        "config.json",
        "empty",
        "tokenizer/config.json",
        "tokenizer/词表.txt",
        "weights.bin",
    ]
    for artifact in version.artifacts:
        assert memory.stored[artifact.sha256] == (folder / artifact.path).read_bytes()
        assert artifact.size_bytes == (folder / artifact.path).stat().st_size
    assert version.artifacts[0].media_type == "application/json"
    assert (version.state, version.description, dict(version.labels)) == (READY, "first", {"a": "b"})
    assert registry.aliases == {"production": version.name}
    assert memory.received == len(b"".join(memory.stored.values()))
    assert all(private for _, _, private in memory.headers.values())
    assert memory.calls.count("FindMissing") == 1
    assert "5 files, 768.0 KiB: 13 B there already or twice in the folder, 768.0 KiB to send" in printed.err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_is_public_already(
    server: Server,
    memory: Memory,
    registry: Registry,
    folder: Path,
    form: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    Bytes that are stored publicly stay so: `push --private` names their files on stderr, also to those who read JSON.
    """
    assert main(["--target", server.target, "assets", "put", str(folder / "config.json")]) == 0
    capsys.readouterr()
    command = ["--target", server.target, *form, "versions", "push", "m", str(folder), "--private"]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "warning: not private" in told
    assert "config.json" in told
    assert "weights.bin" not in told.partition("warning: not private")[2].partition("\n")[0]
    assert main(["--target", server.target, "assets", "put", "--private", str(folder / "config.json")]) == 0
    assert "warning: not private" in capsys.readouterr().err


def test_again(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The same folder once more sends nothing and makes nothing; with one file changed, only that is sent.
    """
    _push(server, folder)
    first = capsys.readouterr().out
    memory.received = 0
    assert _push(server, folder) == 0
    assert capsys.readouterr().out == first
    assert (memory.received, len(registry.versions)) == (0, 1)
    (folder / "config.json").write_text("{}")
    assert _push(server, folder) == 0
    assert (memory.received, len(registry.versions)) == (2, 2)


def test_a_version_that_was_left_pending(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A push that ended between making the version and finalizing it is finished by the next one.
    """
    memory.answers["FinalizeVersion"] = deque([(grpc.StatusCode.PERMISSION_DENIED, "")])
    assert _push(server, folder) == 4
    assert registry.versions[0].state == PENDING
    assert _push(server, folder) == 0
    assert [version.state for version in registry.versions] == [READY]
    assert capsys.readouterr().out == f"{registry.versions[0].name}\n"


def test_json(server: Server, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    With --json the version is printed, and nothing else.
    """
    assert _push(server, folder, "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f'"name": "{registry.versions[0].name}"' in printed.out
    assert printed.out.count("\n") == 1


_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")


def _deep(folder: Path) -> None:
    deep = folder.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "file").touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "No such file"),
        (lambda folder: (folder / "link").symlink_to(ROOT / "README.md"), "--follow-links sends the file"),
        (lambda folder: (folder / "link").symlink_to(".."), "is a link out of the folder"),
        (lambda folder: (folder / "link").symlink_to("nowhere"), "is a broken link"),
        (lambda folder: (folder / "link").symlink_to("link"), "is a broken link"),
        (lambda folder: (folder / "tokenizer" / "up").symlink_to(".."), "is a link to a folder that it is in"),
        (lambda folder: (folder / "a\\b").touch(), 'a\\b has a \\ in "a\\b"'),
        (
            lambda folder: (folder / "x:y.txt").touch(),
            'x:y.txt has a : in "x:y.txt", which no name has on Windows: rename it, such as to "x_y.txt"',
        ),
        (lambda folder: (folder / "aux").mkdir() or (folder / "aux" / "x").touch(), 'aux/ has the part "aux"'),
        (lambda folder: (folder / "Config.json").touch(), '"Config.json" and "config.json" differ in case'),
        pytest.param(
            lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch(), "is not UTF-8", marks=_LINUX
        ),
        (lambda folder: os.mkfifo(folder / "pipe"), "is neither a file nor a folder"),
        pytest.param(_deep, "bytes in UTF-8, and may have 768", marks=_LINUX),
        (lambda folder: (folder / ".w.0123456789abcdef.part").touch(), "an interrupted download leaves"),
        (lambda folder: (folder / ".modelyardignore").write_bytes(b"\xff"), ".modelyardignore is not UTF-8"),
        (lambda folder: (folder / ".modelyardignore").write_text("*"), "holds no files but what is left out"),
        (lambda folder: (folder / ".modelyardignore").write_text("a\n!\n"), "'!' is not a pattern"),
    ],
)
def test_what_is_refused(
    server: Server,
    memory: Memory,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    """
    What no version can hold, or what would take something from elsewhere along, is refused before anything is sent.
    """
    spoil(folder)
    assert _push(server, folder) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert memory.calls == []


def test_links_in_circles(server: Server, memory: Memory, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Two folders with links to each other are not followed for ever; a folder without files is refused; all is told.
    """
    for here, there in (("a", "b"), ("b", "a")):
        (folder / here).mkdir()
        (folder / here / "link").symlink_to(f"../{there}")
    assert _push(server, folder) == 1
    said = capsys.readouterr().err
    assert said.count("/link/link is a link to a folder that it is in") == 2
    (folder.parent / "new").mkdir()
    assert _push(server, folder.parent / "new") == 1
    assert "holds no files" in capsys.readouterr().err
    assert memory.calls == []


def test_links_inside(server: Server, memory: Memory, registry: Registry, folder: Path) -> None:
    """
    Links that stay inside of the folder are followed.
    """
    (folder / "same.bin").symlink_to("weights.bin")
    (folder / "vocabulary").symlink_to("tokenizer")
    assert _push(server, folder) == 0
    paths = {artifact.path: artifact.sha256 for artifact in registry.versions[0].artifacts}
    assert paths["same.bin"] == paths["weights.bin"]
    assert paths["vocabulary/config.json"] == paths["tokenizer/config.json"]


def test_wrong_names(server: Server, memory: Memory, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A model that is not there, and an alias that can be none, are told before anything is sent.
    """
    assert _push(server, folder, model="other") == 3
    assert "MODEL_NOT_FOUND" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _push(server, folder, "--alias", "Not An Alias")
    assert _push(server, folder / "nothing") == 1
    assert memory.received == 0
    assert set(memory.calls) == {"GetModel"}


def test_a_file_that_fails(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    When one file fails for good, the push ends with its error, makes no version, and says how to go on.
    """
    memory.answers["StartUpload"] = deque([(grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA")])
    assert _push(server, folder) == 7
    printed = capsys.readouterr().err
    assert "RESOURCE_EXHAUSTED (ASSET_QUOTA)" in printed
    assert "run the same command again" in printed
    assert not registry.versions
    assert _push(server, folder) == 0


@pytest.mark.parametrize(
    ("code", "reason", "passes", "exits"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "SAFETENSORS_INVALID", False, 2),
        (grpc.StatusCode.PERMISSION_DENIED, "", False, 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA", True, 7),
        (grpc.StatusCode.UNAUTHENTICATED, "", True, 4),
    ],
)
def test_which_file_failed(
    server: Server,
    memory: Memory,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    code: grpc.StatusCode,
    reason: str,
    passes: bool,
    exits: int,
) -> None:
    """
    The error says which file it is about, and to run the command again only where that may help.
    """
    memory.answers["StartUpload"] = deque([(code, reason)])
    assert _push(server, folder) == exits
    said = capsys.readouterr().err
    assert f"modelyard: weights.bin: {code.name}" in said
    assert ("run the same command again" in said) == passes


def test_ctrl_c(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Ctrl-C ends a push soon, with exit code 130 and a line that says how to go on; the next one goes on, by itself.
    """
    for number in range(6):
        (folder / f"{number}.bin").write_bytes(random.SystemRandom().randbytes(10 * PART))
    # The service stops in the middle and answers nothing any more: it does not end the command.
    memory.pause_at = 30 * PART
    pushing = interruptible("--target", server.target, "versions", "push", "m", str(folder), scaled=True)
    try:
        memory.until_paused()
        pushing.send_signal(signal.SIGINT)
        out, err = pushing.communicate(timeout=20)
    finally:
        pushing.kill()
        memory.go_on()
    assert (pushing.returncode, out) == (130, "")
    assert err.endswith("run the same command again to resume\n")
    assert "Traceback" not in err
    assert not registry.versions
    assert _push(server, folder) == 0
    assert capsys.readouterr().out == f"{registry.versions[0].name}\n"
    total = sum(len(data) for data in memory.stored.values())
    assert total > 72 * PART
    assert memory.received < total + 4 * 2 * memory.part_bytes


def test_a_media_type_is_of_the_name(server: Server, registry: Registry, folder: Path) -> None:
    """
    Files of the same bytes keep the types of their own names.
    """
    (folder / "config.txt").write_bytes((folder / "config.json").read_bytes())
    assert _push(server, folder) == 0
    types = {artifact.path: artifact.media_type for artifact in registry.versions[0].artifacts}
    assert (types["config.txt"], types["config.json"]) == ("text/plain", "application/json")


def _paths(registry: Registry) -> list[str]:
    return [artifact.path for artifact in registry.versions[-1].artifacts]


def _write(folder: Path, *paths: str) -> None:
    for path in paths:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)


def test_what_is_left_out(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Repositories, caches and secrets are not sent, wherever they are; how many there are and which is said on stderr.
    """
    secret = (
        ".git/config",
        "sub/.git/config",
        ".env",
        "sub/.env.local",
        "server.key",
        ".ssh/id",
        "sub/__pycache__/a.pyc",
    )
    _write(folder, *secret, ".env.example", "sub/right", ".gitattributes", ".DS_Store")
    before = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert _push(server, folder) == 0
    assert _paths(registry) == [path for path in before if path not in {*secret, ".DS_Store"}]
    said = capsys.readouterr().err
    assert "8 left out by the rules" in said
    for name in (
        ".git/",
        "sub/.git/",
        ".env",
        "sub/.env.local",
        "server.key",
        ".ssh/",
        "sub/__pycache__/",
        ".DS_Store",
    ):
        assert name in said
    assert len(memory.stored) == len({artifact.sha256 for artifact in registry.versions[0].artifacts})


@pytest.mark.parametrize(
    ("lines", "options", "left"),
    [
        ("*.log\n!keep.log\n/logs/\n", [], {"a.log", "sub/b.log", "logs/c", ".env"}),
        ("!.env", [], set()),
        ("", ["--no-default-ignores"], set()),
        ("a.log", ["--no-default-ignores"], {"a.log"}),
        ("", ["--exclude", "*.log", "--exclude", "/empty"], {"a.log", "sub/b.log", "keep.log", "empty", ".env"}),
        ("!a.log", ["--exclude", "a.log"], {"a.log", ".env"}),
        ("", ["--include", "*.log", "--include", ".env", "--exclude", "sub/"], None),
    ],
)
def test_rules(
    server: Server, registry: Registry, folder: Path, lines: str, options: list[str], left: set[str] | None
) -> None:
    """
    .modelyardignore and the options say what is left out, in the syntax of .gitignore; the last that matches counts.
    """
    _write(folder, "a.log", "keep.log", "sub/b.log", "logs/c", ".env")
    (folder / ".modelyardignore").write_text(lines)
    every = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".modelyardignore"}
    assert _push(server, folder, *options) == 0
    assert set(_paths(registry)) == ({"a.log", "keep.log"} if left is None else every - left)


def test_a_repository_cannot_be_taken_back(
    server: Server, memory: Memory, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What pull would refuse is not sent, whatever the rules say: all of a folder is told in one line.
    """
    _write(folder, ".git/config", ".git/HEAD")
    assert _push(server, folder, "--no-default-ignores") == 1
    said = capsys.readouterr().err
    assert said.count(".git/ has the part") == 1
    assert memory.calls == []


def test_dry_run(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A dry run lists the files that a version would have, says what is left out, and asks and sends nothing.
    """
    _write(folder, ".env")
    assert _push(server, folder, "--dry-run") == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "FILE",
        "config.json",
        "empty",
        "tokenizer/config.json",
        "tokenizer/词表.txt",
        "weights.bin",
    ]
    assert "1 left out by the rules" in printed.err
    assert ".env" in printed.err
    assert "nothing was sent: 5 files, 768.0 KiB" in printed.err
    assert _push(server, folder, "--dry-run", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert (memory.calls, registry.versions) == ([], [])


def test_an_empty_folder(server: Server, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A folder without files is left out, which is said.
    """
    (folder / "logs" / "old").mkdir(parents=True)
    assert _push(server, folder) == 0
    assert "1 left out, since a version holds no empty folders: logs/old/" in capsys.readouterr().err
    assert len(_paths(registry)) == 5


def test_links_out_of_the_folder(
    server: Server, memory: Memory, registry: Registry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    With --follow-links the files are sent that links lead to outside, and it is said where from: a snapshot of the
    Hugging Face cache can be pushed. A folder outside is never sent.
    """
    blobs, snapshot = folder.parent / "blobs", folder.parent / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0123").write_text("weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert _push(server, snapshot) == 1
    assert "model.safetensors is a link out of the folder" in capsys.readouterr().err
    assert memory.calls == []
    assert _push(server, snapshot, "--follow-links") == 0
    said = capsys.readouterr().err
    assert f"1 sent from outside of the folder:\nmodel.safetensors -> {blobs / '0123'}" in said
    assert _paths(registry) == ["model.safetensors"]
    assert b"weights" in memory.stored.values()
    (snapshot / "all").symlink_to("../../blobs")
    assert _push(server, snapshot, "--follow-links") == 1
    assert "all is a link out of the folder" in capsys.readouterr().err


def test_one_file(server: Server, registry: Registry, folder: Path) -> None:
    """
    One file becomes a version with that file.
    """
    assert _push(server, folder / "tokenizer" / "词表.txt") == 0
    assert _paths(registry) == ["词表.txt"]


def test_what_the_service_warns_of(
    server: Server, memory: Memory, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    After a push, and where a version is shown, people are told which of its files the service warns of; a service that
    does not answer that question keeps nobody from the version.
    """
    sha256 = hashlib.sha256((folder / "weights.bin").read_bytes()).hexdigest()
    memory.warnings[sha256] = ["loading it runs code of whoever made it: os.system\x1b[2J"]
    told = "warning: weights.bin: loading it runs code of whoever made it: os.system\\x1b[2J\n"
    assert _push(server, folder) == 0
    assert told in capsys.readouterr().err
    get = ["--target", server.target, "versions", "get", "m@1"]
    assert main(get) == 0
    assert told in capsys.readouterr().err
    memory.answers["ListAssets"] = deque([(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")])
    assert main(get) == 0
    assert "warning" not in capsys.readouterr().err


def test_two_that_finalize_one_version(server: Server, memory: Memory, registry: Registry, folder: Path) -> None:
    """
    Of two concurrent pushes of one folder, the one whose FinalizeVersion is aborted by the other retries it.
    """
    memory.answers["FinalizeVersion"] = deque([(grpc.StatusCode.ABORTED, "PINS_TAKEN_BACK")])
    assert _push(server, folder) == 0
    assert [version.state for version in registry.versions] == [READY]
