"""
Files to the asset service and back: verified, resumed, all or nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import grpc
import pytest

import modelyard
from embedded.link import Link
from modelyard.cdn.v1 import assets_pb2

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """
    A file that nobody has uploaded before.
    """
    path = tmp_path / "weights.bin"
    path.write_bytes(random.SystemRandom().randbytes(5 * MIB + 3))
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_there_and_back(yard: modelyard.Client, file: Path, tmp_path: Path) -> None:
    """
    A file comes back as it was; progress grows and ends at the whole, both ways.
    """
    up: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []
    asset = yard.upload_file(file, progress=lambda done, total: up.append((done, total)))
    assert (asset.sha256, asset.size_bytes) == (_sha256(file), file.stat().st_size)
    copy = tmp_path / "copy"
    assert yard.download_file(asset.name, copy, progress=lambda done, total: down.append((done, total))) == asset
    assert copy.read_bytes() == file.read_bytes()
    for steps in (up, down):
        assert steps == sorted(steps)
        assert steps[-1] == (asset.size_bytes, asset.size_bytes)
    assert {path.name for path in tmp_path.iterdir()} == {"weights.bin", "copy"}


async def test_there_and_back_in_asyncio(gateway: str, file: Path, tmp_path: Path) -> None:
    """
    As with threads.
    """
    async with modelyard.aio.connect(gateway) as yard:
        asset = await yard.upload_file(file)
        assert await yard.upload_file(file) == asset
        assert await yard.download_file(asset.name, tmp_path / "copy") == asset
    assert _sha256(tmp_path / "copy") == _sha256(file)


def test_media_type(yard: modelyard.Client, tmp_path: Path) -> None:
    """
    The media type is that of the file's name, unless it is given.
    """
    path = tmp_path / "card.json"
    path.write_text(f'{{"a": {random.SystemRandom().random()}}}')
    assert yard.upload_file(path).media_type == "application/json"
    path.write_text(f'{{"a": {random.SystemRandom().random()}}}')
    assert yard.upload_file(path, media_type="text/x-card").media_type == "text/x-card"


def test_empty_file(yard: modelyard.Client, tmp_path: Path) -> None:
    """
    A file of no bytes is a file.
    """
    (tmp_path / "empty").touch()
    asset = yard.upload_file(tmp_path / "empty")
    yard.download_file(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_interrupted_download_goes_on(yard: modelyard.Client, file: Path, tmp_path: Path) -> None:
    """
    What an interrupted download left is not asked for again, and the file is not there before it is whole.
    """
    asset, copy = yard.upload_file(file), tmp_path / "copy"

    def interrupt(done: int, _total: int) -> None:
        if done >= 2 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yard.download_file(asset.name, copy, progress=interrupt)
    assert not copy.exists()
    steps: list[int] = []
    yard.download_file(asset.name, copy, progress=lambda done, _total: steps.append(done))
    assert steps[0] >= 2 * MIB
    assert copy.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("left", [b"rubbish", b"r" * (6 * MIB)], ids=["shorter", "longer"])
def test_damaged_rest_is_not_used(yard: modelyard.Client, file: Path, tmp_path: Path, left: bytes) -> None:
    """
    A rest of other bytes never becomes the file: it is found out, thrown away, and all is asked for again.
    """
    asset, copy = yard.upload_file(file), tmp_path / "copy"
    (tmp_path / f".copy.{asset.sha256[:16]}.part").write_bytes(left)
    yard.download_file(asset.name, copy)
    assert copy.read_bytes() == file.read_bytes()


def test_replaces_the_file(yard: modelyard.Client, file: Path, tmp_path: Path) -> None:
    """
    A file that is there is replaced when the new one is whole, and stays when the download fails.
    """
    copy = tmp_path / "copy"
    copy.write_text("old")
    with pytest.raises(grpc.RpcError):
        yard.download_file(f"assets/{'0' * 64}", copy)
    assert copy.read_text() == "old"
    yard.download_file(yard.upload_file(file).name, copy)
    assert copy.read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_files_that_cannot_be_used(yard: modelyard.Client, file: Path, tmp_path: Path) -> None:
    """
    A missing file and a folder are told as Python tells them.
    """
    asset = yard.upload_file(file)
    with pytest.raises(FileNotFoundError):
        yard.upload_file(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        yard.upload_file(tmp_path)
    with pytest.raises(IsADirectoryError):
        yard.download_file(asset.name, tmp_path)
    with pytest.raises(FileNotFoundError):
        yard.download_file(asset.name, tmp_path / "no" / "folder")


async def test_broken_connection(gateway: str, tmp_path: Path) -> None:
    """
    A connection that breaks in the middle, more than once, is opened again: no byte twice, and the file is right.
    """
    file = tmp_path / "weights.bin"
    file.write_bytes(random.SystemRandom().randbytes(24 * MIB))
    link = Link(int(gateway.rpartition(":")[2]))
    await link.up()
    try:
        async with modelyard.aio.connect(f"127.0.0.1:{link.port}") as yard:
            asset = await yard.upload_file(file)
            steps: list[int] = []

            def watch(done: int, _total: int) -> None:
                steps.append(done)
                if len(steps) in {5, 15}:
                    link.break_after = link.received + MIB

            await asyncio.wait_for(yard.download_file(asset.name, tmp_path / "copy", progress=watch), 60)
        assert link.break_after is None
    finally:
        await link.down()
    assert steps == sorted(set(steps))
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_file_that_changes(yard: modelyard.Client, file: Path) -> None:
    """
    A file that changes while it is sent is told, and nothing of it is stored.
    """
    sha256 = _sha256(file)

    def change(done: int, _total: int) -> None:
        if done == MIB:
            with file.open("r+b") as opened:
                opened.seek(3 * MIB)
                opened.write(bytes(MIB))

    with pytest.raises(modelyard.FileChangedError):
        yard.upload_file(file, progress=change)
    with pytest.raises(grpc.RpcError):
        yard.assets.GetAsset(assets_pb2.GetAssetRequest(name=f"assets/{sha256}"))
