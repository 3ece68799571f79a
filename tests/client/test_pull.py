"""
`modelyard versions pull`: a version becomes a folder, and nothing outside of the folder is touched.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelyard.cli.main import main
from modelyard.cli.pull_state import STATE_FILE
from modelyard.paths import shown
from modelyard.registry.v1 import versions_pb2
from tests.client.bad_paths import CLASHING, RIGHT, WRONG
from tests.client.memory import MIB, PART, Memory, Server
from tests.client.memory_registry import MODEL, PENDING, Registry
from tests.client.processes import interruptible, limited_files

ROOT = Path(__file__).resolve().parents[2]


def _artifact(memory: Memory, path: str, data: bytes) -> versions_pb2.Artifact:
    asset = memory.put(data)
    return versions_pb2.Artifact(path=path, sha256=asset.sha256, size_bytes=len(data))


def _pull(server: Server, version: str, folder: Path, *more: str) -> int:
    return main(["--target", server.target, "versions", "pull", version, str(folder), *more])


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STATE_FILE
    }


def test_a_version_becomes_a_folder(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    All files come, in their folders; again, nothing is asked for; what was changed or lost comes back, and what does
    not belong to the version stays.
    """
    files = {"weights.bin": bytes(range(256)) * 5000, "a/b/词表.txt": b"1", "empty": b"", "twin": b"1"}
    registry.add(*(_artifact(memory, path, data) for path, data in files.items()))
    folder = tmp_path / "new" / "folder"
    assert _pull(server, "m", folder) == 0
    assert _files(folder) == files
    printed = capsys.readouterr()
    assert printed.out == f"{MODEL}/versions/1 is in {folder}\n"
    assert "4 files, 1 B there already or twice, 1.2 MiB to get" in printed.err
    memory.downloads.clear()
    (folder / "mine").write_text("mine")
    assert _pull(server, "m", folder) == 0
    assert memory.downloads == []
    (folder / "twin").write_text("2")
    (folder / "a" / "b" / "词表.txt").unlink()
    assert _pull(server, "m", folder) == 0
    assert _files(folder) == {**files, "mine": b"mine"}
    # Both have the same bytes.
    assert len(memory.downloads) == 1


def test_equal_files_come_once(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    Bytes that several files of a version have are fetched once, or not at all when a file that is there has them; the
    files are of their own all the same.
    """
    data = random.SystemRandom().randbytes(MIB)
    registry.add(*(_artifact(memory, path, data) for path in ("a.bin", "sub/b.bin", "c.bin")))
    assert _pull(server, "m", tmp_path / "new") == 0
    assert _files(tmp_path / "new") == {"a.bin": data, "sub/b.bin": data, "c.bin": data}
    assert memory.sent == len(data)
    assert len({(tmp_path / "new" / path).stat().st_ino for path in ("a.bin", "sub/b.bin", "c.bin")}) == 3
    (tmp_path / "new" / "a.bin").unlink()
    assert _pull(server, "m", tmp_path / "new") == 0
    assert (_files(tmp_path / "new")["a.bin"], memory.sent) == (data, len(data))


def test_files_of_another_version(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What an earlier pull wrote and this version does not have is told, and goes with --exact once all is there; what a
    pull did not write stays.
    """
    one, two, three = (_artifact(memory, f"{name}.bin", name.encode()) for name in ("one", "sub/two", "three"))
    registry.add(one, two)
    registry.add(one, three)
    assert _pull(server, "m:1", tmp_path) == 0
    (tmp_path / "mine.bin").write_bytes(b"mine")
    capsys.readouterr()
    assert _pull(server, "m:2", tmp_path) == 0
    assert "still there (--exact removes them): sub/two.bin" in capsys.readouterr().err
    assert "sub/two.bin" in _files(tmp_path)
    assert _pull(server, "m:2", tmp_path, "--exact") == 0
    assert "removed what earlier pulls wrote: sub/two.bin" in capsys.readouterr().err
    assert _files(tmp_path) == {"one.bin": b"one", "three.bin": b"three", "mine.bin": b"mine"}
    assert not (tmp_path / "sub").exists()
    assert _pull(server, "m:1", tmp_path, "--exact") == 0
    assert _files(tmp_path) == {"one.bin": b"one", "sub/two.bin": b"sub/two", "mine.bin": b"mine"}


def test_what_somebody_changed_is_not_removed(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A file that a pull wrote and somebody changed since is not removed: --exact is refused, and names it.
    """
    registry.add(_artifact(memory, "one.bin", b"one"), _artifact(memory, "two.bin", b"two"))
    registry.add(_artifact(memory, "one.bin", b"new"))
    assert _pull(server, "m:1", tmp_path) == 0
    (tmp_path / "two.bin").write_bytes(b"mine")
    assert _pull(server, "m:2", tmp_path, "--exact") == 1
    assert "two.bin was written by an earlier pull and changed since" in capsys.readouterr().err
    assert _files(tmp_path) == {"one.bin": b"one", "two.bin": b"mine"}


@pytest.mark.parametrize("path", ["../outside.bin", "link/outside.bin", "/etc/hostname", ".git/config"])
def test_what_says_that_pulls_wrote_elsewhere(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, path: str
) -> None:
    """
    Somebody else may have written what is remembered of pulls: nothing outside of the folder is removed by it.
    """
    folder, outside = tmp_path / "folder", tmp_path / "outside.bin"
    folder.mkdir()
    outside.write_bytes(b"mine")
    (folder / "link").symlink_to(tmp_path)
    sha256 = memory.put(b"mine").sha256
    (folder / STATE_FILE).write_text(json.dumps({"files": {path: sha256}}))
    registry.add(_artifact(memory, "one.bin", b"one"))
    assert _pull(server, "m", folder, "--exact") == 0
    assert outside.read_bytes() == b"mine"


def test_no_room(
    server: Server,
    memory: Memory,
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A pull that has no room for its files is refused before it begins, and says so; nothing is said of going on.
    """
    artifact = _artifact(memory, "one.bin", b"one")
    registry.add(versions_pb2.Artifact(path="large.bin", sha256=artifact.sha256, size_bytes=1 << 60))
    assert _pull(server, "m", tmp_path / "new") == 1
    said = capsys.readouterr().err
    assert f"not enough disk space in {tmp_path / 'new'}: 1048576.0 TiB to get" in said
    assert "again" not in said
    assert memory.downloads == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("m", 3),
        ("m:latest", 3),
        ("m@latest", 3),
        ("m:1", 1),
        ("m@1", 1),
        ("default/m@production", 2),
        (f"{MODEL}/versions/1", 1),
        (f"{MODEL}/aliases/production", 2),
        (f"{MODEL}:2", 2),
    ],
)
def test_which_version(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, text: str, number: int
) -> None:
    """
    A number, an alias, or the newest that is READY.
    """
    for each in ("1", "2", "3"):
        registry.add(_artifact(memory, "number", each.encode()))
    registry.add(_artifact(memory, "number", b"4"), state=PENDING)
    registry.aliases["production"] = f"{MODEL}/versions/2"
    assert _pull(server, text, tmp_path / "folder") == 0
    assert (tmp_path / "folder" / "number").read_text() == str(number)


def test_an_alias_named_latest(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    latest is the newest version that is READY, whatever alias somebody gave that name.
    """
    for each in ("1", "2"):
        registry.add(_artifact(memory, "number", each.encode()))
    registry.aliases["latest"] = f"{MODEL}/versions/1"
    for text, number in (("m@latest", "2"), ("m:latest", "2"), ("m", "2")):
        assert _pull(server, text, tmp_path / "folder") == 0
        assert (tmp_path / "folder" / "number").read_text() == number


def test_no_such_version(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What is not there, or not READY, is said in a line.
    """
    assert _pull(server, "m", tmp_path / "folder") == 3
    assert "VERSION_NOT_FOUND" in capsys.readouterr().err
    registry.add(_artifact(memory, "a", b"1"), state=PENDING)
    for text, line, code in (
        ("m:1", "is PENDING", 1),
        ("m@nobody", "ALIAS_NOT_FOUND", 3),
        ("m:9", "VERSION_NOT_FOUND", 3),
    ):
        assert _pull(server, text, tmp_path / "folder") == code
        assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", WRONG, ids=ascii)
def test_wrong_paths(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """
    A version with a path that leads out of the folder, is no file on some system, or is settings that a program runs,
    is refused before anything is written, and it is said which.
    """
    registry.add(_artifact(memory, "good", b"1"), _artifact(memory, path, b"2"))
    assert _pull(server, "m", tmp_path / "folder") == 1
    said = capsys.readouterr().err
    assert f'nothing was written: the path "{shown(path)}"' in said
    assert WRONG[path] in said
    assert not list(tmp_path.iterdir())
    assert memory.downloads == []


@pytest.mark.parametrize("paths", CLASHING, ids=ascii)
def test_paths_that_clash(
    server: Server,
    memory: Memory,
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    paths: tuple[str, ...],
) -> None:
    """
    Paths that are one for some system, or a folder to each other, are refused.
    """
    registry.add(*(_artifact(memory, path, str(place).encode()) for place, path in enumerate(paths)))
    assert _pull(server, "m", tmp_path / "folder") == 1
    assert CLASHING[paths] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_that_a_version_may_have(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    Whatever CreateVersion lets through can be pulled, and pushed again.
    """
    registry.add(*(_artifact(memory, path, path.encode()) for path in RIGHT))
    assert _pull(server, "m", tmp_path / "folder") == 0
    assert _files(tmp_path / "folder") == {path: path.encode() for path in RIGHT}
    assert main(["--target", server.target, "versions", "push", "m", str(tmp_path / "folder")]) == 0
    assert sorted(artifact.path for artifact in registry.versions[-1].artifacts) == sorted(RIGHT)


def test_a_digest_that_is_none(server: Server, registry: Registry, tmp_path: Path) -> None:
    """
    A digest becomes part of a file name: one that is none is refused.
    """
    registry.add(versions_pb2.Artifact(path="a", sha256="../../../../x", size_bytes=1))
    assert _pull(server, "m", tmp_path / "folder") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["file", "folder", "dangling"])
def test_links_that_lead_out(server: Server, memory: Memory, registry: Registry, tmp_path: Path, link: str) -> None:
    """
    A link that is in the folder already, and leads out of it, is not gone through.
    """
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "x").write_text("precious")
    if link == "file":
        (folder / "x").symlink_to(outside / "x")
        path = "x"
    elif link == "folder":
        (folder / "sub").symlink_to(outside)
        path = "sub/x"
    else:
        (folder / "sub").symlink_to(outside / "new")
        path = "sub/x"
    registry.add(_artifact(memory, path, b"evil"))
    assert _pull(server, "m", folder) == 1
    assert _files(outside) == {"x": b"precious"}


def test_links_that_stay(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    The folder itself may be a link, and links inside of it may lead to its own folders.
    """
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "alias").symlink_to("sub")
    registry.add(_artifact(memory, "alias/x", b"1"))
    assert _pull(server, "m", tmp_path / "link") == 0
    assert (tmp_path / "real" / "sub" / "x").read_bytes() == b"1"


def test_other_bytes(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A service that sends other bytes than the version names is found out, and nothing of them is left.
    """
    registry.add(_artifact(memory, "a", b"right"))
    memory.garble = b"wrong"
    assert _pull(server, "m", tmp_path / "folder") == 1
    assert "have another sha256" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "folder").iterdir()] == [STATE_FILE]


def test_json(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    With --json the version is printed, and nothing else.
    """
    registry.add(_artifact(memory, "a", b"1"))
    assert _pull(server, "m", tmp_path / "folder", "--json") == 0
    printed = capsys.readouterr()
    assert (printed.err, printed.out.count("\n"), '"path": "a"' in printed.out) == ("", 1, True)


def test_which_file_failed(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The error says which file it is about; what is the same the next time is not to be tried again.
    """
    registry.add(_artifact(memory, "sub/a", b"right"), _artifact(memory, "sub/b", b"1"))
    (tmp_path / "folder" / "sub" / "b").mkdir(parents=True)
    assert _pull(server, "m", tmp_path / "folder") == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'folder' / 'sub' / 'b'} is a folder" in said
    assert "again" not in said
    memory.garble = b"wrong"
    assert _pull(server, "m", tmp_path / "other") == 1
    said = capsys.readouterr().err
    assert "modelyard: sub/" in said
    assert "again" not in said


@pytest.mark.usefixtures("scaled")
def test_a_full_disk(
    server: Server, memory: Memory, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    When the disk is full, the error names the file, and the pull can be resumed once there is space.
    """
    registry.add(_artifact(memory, "sub/large.bin", random.SystemRandom().randbytes(4 * PART)))
    with limited_files(3 * PART):
        assert _pull(server, "m", tmp_path / "folder") == 1
    said = capsys.readouterr().err
    assert f"modelyard: {tmp_path / 'folder' / 'sub' / 'large.bin'}: File too large" in said
    assert "run the same command again" in said
    assert _pull(server, "m", tmp_path / "folder") == 0


def _start(server: Server, folder: Path) -> subprocess.Popen[str]:
    return interruptible("--target", server.target, "versions", "pull", "m", str(folder), scaled=True)


@pytest.mark.usefixtures("scaled")
def test_several_into_one_folder(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    Pulls of one version into one folder all succeed, with the right files and nothing beside them: as the processes of
    one machine, or the machines of one shared volume, start them at once. No large file is received twice.
    """
    large = random.SystemRandom().randbytes(48 * PART)
    files = {f"{number % 7}/{number}": random.SystemRandom().randbytes(number) for number in range(60)}
    files["large.bin"] = large
    registry.add(*(_artifact(memory, path, data) for path, data in files.items()))
    folder = tmp_path / "folder"
    # The service sends nothing until all pulls have asked for the version.
    memory.pause_at = -1
    memory.pause.clear()
    running = [_start(server, folder) for _ in range(2)]
    try:
        with ThreadPoolExecutor(1) as pool:
            third = pool.submit(_pull, server, "m", folder)
            try:
                while memory.calls.count("ResolveVersion") < 3:
                    assert all(each.poll() is None for each in running)
                    time.sleep(0.001)
            finally:
                memory.go_on()
            ended = [(each.communicate(timeout=90)[1], each.returncode) for each in running]
            assert third.result() == 0
    finally:
        for each in running:
            each.kill()
            each.communicate()
    assert [code for _, code in ended] == [0] * 2, ended
    assert _files(folder) == files
    assert sum(limit for _, limit in memory.downloads) == len(large)


@pytest.mark.usefixtures("scaled")
def test_one_of_several_is_killed(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    Of two pulls into one folder, one is killed during its transfer: the other resumes from what it left.
    """
    data = random.SystemRandom().randbytes(64 * PART)
    registry.add(_artifact(memory, "large.bin", data))
    folder = tmp_path / "folder"
    memory.pause_at = 40 * PART
    first = _start(server, folder)
    try:
        memory.until_paused()
        while not list(folder.glob("*.ranges")):
            time.sleep(0.001)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(_pull, server, "m", folder)
            while memory.calls.count("ResolveVersion") < 2:
                time.sleep(0.001)
            first.kill()
            first.communicate()
            memory.go_on()
            assert second.result() == 0
    finally:
        memory.go_on()
        first.kill()
        first.communicate()
    assert _files(folder) == {"large.bin": data}
    # Up to 16 parts since the ranges were last recorded, and what was in flight, are received again.
    assert memory.sent < (64 + 40) * PART


@pytest.mark.usefixtures("scaled")
def test_ctrl_c(server: Server, memory: Memory, registry: Registry, tmp_path: Path) -> None:
    """
    Ctrl-C ends a pull soon and leaves no incomplete file in place; the next pull does not receive again what it has.
    """
    files = {f"{number}.bin": random.SystemRandom().randbytes(20 * PART) for number in range(3)}
    files["large.bin"] = random.SystemRandom().randbytes(40 * PART)
    registry.add(*(_artifact(memory, path, data) for path, data in files.items()))
    folder = tmp_path / "folder"
    # The service stops in the middle and answers nothing any more: it does not end the command.
    memory.pause_at = 50 * PART
    pulling = _start(server, folder)
    try:
        memory.until_paused()
        # What was sent has arrived, but for what the stream of each file buffers.
        while _blocks(folder) < 8 * PART:
            time.sleep(0.001)
        pulling.send_signal(signal.SIGINT)
        out, err = pulling.communicate(timeout=20)
    finally:
        pulling.kill()
        memory.go_on()
    assert (pulling.returncode, out) == (130, "")
    assert err.endswith("run the same command again to resume\n")
    for path in folder.glob("*.bin"):
        assert path.read_bytes() == files[path.name]
    kept = _blocks(folder)
    assert kept >= 8 * PART
    memory.sent = 0
    assert _pull(server, "m", folder) == 0
    assert _files(folder) == files
    assert memory.sent <= 100 * PART - kept + 8 * PART


def _blocks(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.glob("*")) if folder.exists() else 0
