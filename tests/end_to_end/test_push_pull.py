"""
A folder through the whole suite and back: by the command line, over real connections that break.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import modelyard
from embedded.link import Link
from embedded.stack import Stack
from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.main import main
from modelyard.cli.pull_state import STATE_FILE
from modelyard.registry.v1 import models_pb2, versions_pb2

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


@pytest.fixture
def model(yard: modelyard.Client) -> str:
    """
    A model that nobody has pushed to.
    """
    name = f"pushed-{random.SystemRandom().randbytes(4).hex()}"
    yard.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id=name))
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    A folder with a large file, an empty one, and a name in another script.
    """
    root = tmp_path / "net"
    (root / "tokenizer").mkdir(parents=True)
    (root / "weights.bin").write_bytes(random.SystemRandom().randbytes(40 * MIB + 1))
    (root / "tokenizer" / "词表 ß.txt").write_bytes(random.SystemRandom().randbytes(1000))
    (root / "empty").touch()
    return root


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STATE_FILE
    }


def test_two_that_push_one_new_file_at_once(stack: Stack, tmp_path: Path) -> None:
    """
    Two clients send the same new file at once, of several parts: both succeed, with the same asset.
    """
    file = tmp_path / "weights.bin"
    file.write_bytes(random.SystemRandom().randbytes(25 * MIB + 1))

    def push(_number: int) -> assets_pb2.Asset:
        with modelyard.connect(stack.gateway) as yard:
            return yard.upload_file(file)

    async def push_too() -> assets_pb2.Asset:
        async with modelyard.aio.connect(stack.gateway) as yard:
            return await yard.upload_file(file)

    with ThreadPoolExecutor(3) as pool:
        first, second = (pool.submit(push, number) for number in range(2))
        third = pool.submit(asyncio.run, push_too())
        assert first.result() == second.result() == third.result()


def test_there_and_back(
    stack: Stack,
    yard: modelyard.Client,
    model: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A pushed folder comes back as it was, by its alias; pushed again, nothing is sent and no version is made.
    """
    push = ["--target", stack.gateway, "versions", "push", model, str(folder), "--alias", "production"]
    assert main(push) == 0
    pushed = capsys.readouterr()
    assert pushed.out == f"namespaces/default/models/{model}/versions/1\n"
    assert "3 files, 40.0 MiB: 0 B there already or twice in the folder, 40.0 MiB to send" in pushed.err

    pull = ["--target", stack.gateway, "versions", "pull", f"{model}@production", str(tmp_path / "copy")]
    assert main(pull) == 0
    assert _files(tmp_path / "copy") == _files(folder)
    capsys.readouterr()

    assert main(push) == 0
    again = capsys.readouterr()
    assert again.out == pushed.out
    assert "40.0 MiB there already or twice in the folder, 0 B to send" in again.err
    listed = yard.versions.ListVersions(
        versions_pb2.ListVersionsRequest(parent=f"namespaces/default/models/{model}")
    ).versions
    assert [version.state for version in listed] == [versions_pb2.Version.STATE_READY]
    assert {artifact.path for artifact in listed[0].artifacts} == set(_files(folder))


def _at_once(stack: Stack, *commands: list[str]) -> None:
    """
    Run commands at the same time, each in a process of its own; all end well.
    """
    command = [sys.executable, "-m", "modelyard.cli", "--target", stack.gateway, "versions"]
    running = [
        subprocess.Popen([*command, *each], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for each in commands
    ]
    try:
        ended = [(each.communicate(timeout=100)[1], each.returncode) for each in running]
    finally:
        for each in running:
            each.kill()
    assert [code for _, code in ended] == [0] * len(commands), ended


def test_two_pushes_of_one_folder(stack: Stack, yard: modelyard.Client, model: str, folder: Path) -> None:
    """
    Two pushes of the same new folder at once both end well, with versions that have all its files.
    """
    _at_once(stack, *[["push", model, str(folder)]] * 2)
    versions = yard.versions.ListVersions(
        versions_pb2.ListVersionsRequest(parent=f"namespaces/default/models/{model}")
    ).versions
    for version in versions:
        assert version.state == versions_pb2.Version.STATE_READY
        assert {artifact.path for artifact in version.artifacts} == set(_files(folder))


def test_two_pulls_into_one_folder(stack: Stack, model: str, folder: Path, tmp_path: Path) -> None:
    """
    Two pulls into one folder at once both end well, and leave the files of the version and nothing else.
    """
    for number in range(100):
        (folder / "tokenizer" / str(number)).write_text(str(number))
    assert main(["--target", stack.gateway, "versions", "push", model, str(folder)]) == 0
    _at_once(stack, *[["pull", model, str(tmp_path / "copy")]] * 2)
    assert _files(tmp_path / "copy") == _files(folder)


def test_a_repository_is_not_pulled(stack: Stack, yard: modelyard.Client, model: str) -> None:
    """
    Through the gateway, too, no version can be made that would change the settings of a repository it is pulled into.
    """
    for path in (".git/config", "sub/.GIT/config", "git~1/config", ".hg/hgrc"):
        artifact = versions_pb2.Artifact(path=path, sha256="0" * 64, size_bytes=1)
        with pytest.raises(grpc.RpcError) as failed:
            yard.versions.CreateVersion(
                versions_pb2.CreateVersionRequest(
                    parent=f"namespaces/default/models/{model}", version=versions_pb2.Version(artifacts=[artifact])
                )
            )
        problem = modelyard.explain(failed.value)
        assert problem.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [each.field for each in problem.violations] == ["version.artifacts[0].path"]


async def test_a_connection_that_breaks(stack: Stack, folder: Path) -> None:
    """
    An upload whose connection breaks goes on with the parts that the service has, and makes the right asset.
    """
    link = Link(int(stack.gateway.rpartition(":")[2]))
    await link.up()
    stood: list[int] = []
    last = 0

    def watch(done: int, _total: int) -> None:
        nonlocal last
        if done < last:
            stood.append(done)
        last = done
        if done in {20 * MIB, 35 * MIB} and len(stood) < 2:
            loop.call_soon_threadsafe(link.cut)

    loop = asyncio.get_running_loop()
    try:
        async with modelyard.aio.connect(f"127.0.0.1:{link.port}") as yard:
            asset = await asyncio.wait_for(yard.upload_file(folder / "weights.bin", progress=watch), 90)
            data = b"".join(
                [
                    message.chunk.data
                    async for message in yard.assets.Download(assets_pb2.DownloadRequest(name=asset.name))
                ]
            )
    finally:
        await link.down()
    assert stood
    assert data == (folder / "weights.bin").read_bytes()
