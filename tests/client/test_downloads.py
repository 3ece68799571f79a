"""
Downloads of large files: in several streams, resumed, verified, all or nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import pytest

import modelyard
from modelyard import aio, client
from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer import download as download_module
from modelyard.transfer import range_download, ranges, retries
from modelyard.transfer.locks import try_lock
from modelyard.transfer.ranges import Piece, cut, load, save
from tests.client.limits import scale_down
from tests.client.memory import MIB, PART, Memory, Server, serving
from tests.client.processes import limited_files, transfer

SIZE = 6 * PART + 7
DATA = random.Random(1).randbytes(SIZE)  # noqa: S311 - any bytes

#: Downloads an asset with a client of one of the two kinds.
Download = Callable[..., Any]


@pytest.fixture
def asset(memory: Memory) -> assets_pb2.Asset:
    """
    An asset that is fetched in ranges.
    """
    return memory.put(DATA)


@pytest.fixture
def server(memory: Memory) -> Iterator[Server]:
    """
    A server of it.
    """
    with serving(memory) as running:
        yield running


@pytest.fixture(autouse=True)
def small_limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Limits at a sixteenth, files received in ranges from 64 KiB on, and short delays between attempts.
    """
    if request.node.name == "test_the_limits_that_users_have":
        return
    scale_down(monkeypatch.setattr)
    for module in (client, aio):
        monkeypatch.setattr(module, "RANGED_BYTES", PART)
    monkeypatch.setattr(ranges, "_LEAST", 2 * PART)
    monkeypatch.setattr(range_download, "_SAVE_BYTES", PART)
    monkeypatch.setattr(retries, "_LONGEST_DELAY", 0.01)


@pytest.fixture(params=["threads", "asyncio"])
def download(request: pytest.FixtureRequest, server: Server) -> Download:
    """
    Either client's download.
    """

    def with_threads(*args: Any, **more: Any) -> Any:
        with modelyard.connect(server.target) as yard:
            return yard.download_file(*args, **more)

    def with_asyncio(*args: Any, **more: Any) -> Any:
        async def go() -> Any:
            async with modelyard.aio.connect(server.target) as yard:
                return await yard.download_file(*args, **more)

        return asyncio.run(go())

    return with_threads if request.param == "threads" else with_asyncio


def test_in_ranges(download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path) -> None:
    """
    A large file comes in four ranges that together are the file; progress grows to the whole; nothing else is left.
    """
    steps: list[tuple[int, int]] = []
    assert download(asset.name, tmp_path / "copy", progress=lambda *step: steps.append(step)) == asset
    assert (tmp_path / "copy").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    length = 2 * PART
    assert sorted(memory.downloads) == [(0, length), (length, length), (2 * length, length), (3 * length, 7)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, SIZE), (SIZE, SIZE))


def test_breaks_go_on_at_the_last_byte(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    A stream that breaks is asked for again from its last byte on, and no byte comes twice.
    """
    memory.break_downloads = deque([1, 100_000, PART + 3, 0, 5, 77_777])
    download(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert not memory.break_downloads
    assert memory.sent == SIZE


def test_a_token_that_ends_in_a_download(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    A stream ends with its token: the download goes on with the one that the token's file holds by then.
    """
    memory.answers["Download"] = deque([(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")])
    download(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert memory.calls.count("Download") == 5


def test_attempts_without_progress_are_bounded(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    A service that sends nothing is left alone after some attempts; what came is kept, and used when it is back.
    """
    memory.break_downloads = deque([0] * 1000)
    with pytest.raises(grpc.RpcError):
        download(asset.name, tmp_path / "copy")
    assert len(memory.downloads) < 60
    memory.break_downloads = deque([10] * 25)
    download(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


def test_an_interrupted_download_goes_on(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    After an interruption the file is not there, and what came is not asked for again.
    """

    def interrupt(done: int, _total: int) -> None:
        if done > 4 * PART:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        download(asset.name, tmp_path / "copy", progress=interrupt)
    assert not (tmp_path / "copy").exists()
    memory.downloads.clear()
    steps: list[int] = []
    download(asset.name, tmp_path / "copy", progress=lambda done, _total: steps.append(done))
    assert (tmp_path / "copy").read_bytes() == DATA
    assert steps[0] > 4 * PART
    assert sum(limit for _, limit in memory.downloads) == SIZE - steps[0]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_client_that_is_killed(server: Server, memory: Memory, tmp_path: Path) -> None:
    """
    A client that is killed leaves what it has written down, and the next one goes on with it.
    """
    data = random.SystemRandom().randbytes(72 * PART)
    asset = memory.put(data)
    copy = tmp_path / "copy"
    memory.pause_at = 50 * PART
    process = transfer(server.target, f"download_file({asset.name!r}, {str(copy)!r})")
    memory.until_paused()
    while not list(tmp_path.glob("*.ranges")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    memory.go_on()
    memory.downloads.clear()
    with modelyard.connect(server.target) as yard:
        yard.download_file(asset.name, copy)
    assert copy.read_bytes() == data
    assert sum(limit for _, limit in memory.downloads) < 60 * PART
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


async def test_a_task_that_is_cancelled(
    server: Server, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    A cancelled download ends, with the calls that it made, and leaves what the next one goes on with.
    """
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch(done: int, _total: int) -> None:
        if done > 3 * PART:
            memory.pause.clear()
            loop.call_soon_threadsafe(enough.set)

    async with modelyard.aio.connect(server.target) as yard:
        task = asyncio.create_task(yard.download_file(asset.name, tmp_path / "copy", progress=watch))
        await enough.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        memory.pause.set()
        memory.downloads.clear()
        await yard.download_file(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert sum(limit for _, limit in memory.downloads) <= SIZE - 3 * PART


def _interrupted(download: Download, asset: assets_pb2.Asset, path: Path) -> Path:
    def interrupt(done: int, _total: int) -> None:
        if done > 4 * PART:
            raise LookupError

    with pytest.raises(LookupError):
        download(asset.name, path, progress=interrupt)
    (part,) = path.parent.glob(".*.part")
    return part


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "no notes", "wrong notes", "notes of another file"])
def test_a_damaged_rest(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path, damage: str
) -> None:
    """
    A rest that is not what it says never becomes the file: it is thrown away, and all is fetched anew.
    """
    part = _interrupted(download, asset, tmp_path / "copy")
    notes = part.with_name(f"{part.name}.ranges")
    if damage == "other bytes":
        with part.open("r+b") as file:
            file.write(b"other")
    if damage == "shorter":
        os.truncate(part, 10)
    if damage == "no notes":
        notes.unlink()
    if damage == "wrong notes":
        notes.write_text(notes.read_text()[:-3])
    if damage == "notes of another file":
        save(notes, [Piece(0, 10, 10)])
    memory.downloads.clear()
    download(asset.name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert sum(limit for _, limit in memory.downloads) >= SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_other_bytes(download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path) -> None:
    """
    A service that sends other bytes is found out; nothing of them is kept, and a file that was there stays.
    """
    (tmp_path / "copy").write_text("old")
    memory.garble = b"lies"
    with pytest.raises(modelyard.IntegrityError, match="another sha256"):
        download(asset.name, tmp_path / "copy")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("copy", "old")]
    assert len(memory.downloads) == 4


def test_other_bytes_after_an_interruption(
    download: Download, memory: Memory, asset: assets_pb2.Asset, tmp_path: Path
) -> None:
    """
    All is fetched anew once, not for ever.
    """
    _interrupted(download, asset, tmp_path / "copy")
    memory.downloads.clear()
    memory.garble = b"lies"
    with pytest.raises(modelyard.IntegrityError, match="another sha256"):
        download(asset.name, tmp_path / "copy")
    assert SIZE < sum(limit for _, limit in memory.downloads) < 2 * SIZE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["part", "notes"])
@pytest.mark.parametrize("size", [5, SIZE], ids=["small", "large"])
def test_links_are_not_followed(download: Download, memory: Memory, tmp_path: Path, place: str, size: int) -> None:
    """
    A link where the bytes are gathered, or notes are kept, does not lead to a file of somebody else's.
    """
    asset = memory.put(DATA[:size])
    (tmp_path / "folder").mkdir()
    (tmp_path / "precious").write_text("mine")
    part = tmp_path / "folder" / f".copy.{asset.sha256[:16]}.part"
    link = part if place == "part" else part.with_name(f"{part.name}.ranges")
    link.symlink_to(tmp_path / "precious")
    if place == "part":
        with pytest.raises(OSError, match="symbolic link"):
            download(asset.name, tmp_path / "folder" / "copy")
    else:
        download(asset.name, tmp_path / "folder" / "copy")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["assets/../../x", f"assets/{'A' * 64}"])
def test_a_service_that_makes_up_names(download: Download, tmp_path: Path, name: str) -> None:
    """
    A digest becomes part of a file name: one that is none is refused.
    """
    wrong = assets_pb2.Asset(name=name, sha256=name.removeprefix("assets/"), size_bytes=5)
    for size in (5, SIZE):
        wrong.size_bytes = size
        with pytest.raises(modelyard.IntegrityError, match="does not name the digest"):
            download(wrong, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_long_names(download: Download, asset: assets_pb2.Asset, tmp_path: Path) -> None:
    """
    The longest name that a file may have is no obstacle, in whatever script.
    """
    for name in ("n" * 255, "名" * 85):
        download(asset.name, tmp_path / name)
        assert (tmp_path / name).read_bytes() == DATA


@pytest.mark.parametrize("size", [1, PART, PART + 1, 40 * PART, 5000 * PART + 1])
def test_pieces(size: int, tmp_path: Path) -> None:
    """
    Pieces lie side by side, cover all, and are the same when loaded.
    """
    pieces = cut(size, 4)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (0, size)
    pieces[0].done = 1
    save(tmp_path / "notes", pieces)
    assert load(tmp_path / "notes", size) == pieces
    assert load(tmp_path / "notes", size + 1) is None


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("size", [5, SIZE], ids=["small", "large"])
async def test_tasks_that_want_the_same_file(server: Server, memory: Memory, tmp_path: Path, size: int) -> None:
    """
    Of several tasks of one loop that download the same file, one does, and the others have it when it is done; one that
    is cancelled meanwhile keeps nobody waiting, and the next one goes on.
    """
    asset = memory.put(DATA[:size])
    memory.pause.clear()
    async with modelyard.aio.connect(server.target) as yard:
        first, *others = [asyncio.create_task(yard.download_file(asset, tmp_path / "copy")) for _ in range(4)]
        while not memory.downloads:
            await asyncio.sleep(0.001)
        first.cancel()
        others[0].cancel()
        memory.go_on()
        await asyncio.gather(*others[1:])
        await asyncio.gather(first, others[0], return_exceptions=True)
    assert (tmp_path / "copy").read_bytes() == DATA[:size]
    assert _names(tmp_path) == ["copy"]


@pytest.mark.parametrize("size", [0, 5, SIZE], ids=["empty", "small", "large"])
def test_threads_that_want_the_same_file(server: Server, memory: Memory, tmp_path: Path, size: int) -> None:
    """
    As well for the threads of one process; the bytes come once, and the progress of those that wait grows to the whole.
    """
    asset = memory.put(DATA[:size])
    steps: list[list[int]] = [[] for _ in range(4)]
    waiting = threading.Barrier(4)

    def get(mine: list[int]) -> None:
        def tell(done: int, _total: int) -> None:
            mine.append(done)
            if len(mine) == 1:
                # Under way, or waiting: nobody is done before all are.
                waiting.wait(30)

        yard.download_file(asset, tmp_path / "copy", progress=tell)

    with modelyard.connect(server.target) as yard, ThreadPoolExecutor(4) as pool:
        list(pool.map(get, steps))
    assert (tmp_path / "copy").read_bytes() == DATA[:size]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert memory.sent == size
    assert all(mine[-1] == size for mine in steps)


@pytest.mark.parametrize("size", [5, SIZE], ids=["small", "large"])
def test_another_download_that_ends_just_now(
    server: Server, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """
    When another download moves the file in place between the opening of what it gathered and the lock on it, that file
    is the result: nobody writes into it any more.
    """
    asset = memory.put(DATA[:size])

    def late(file: BinaryIO) -> bool:
        for part in tmp_path.glob(".*.part"):
            if not (tmp_path / "copy").exists():
                part.write_bytes(DATA[:size])
                part.rename(tmp_path / "copy")
        return try_lock(file)

    monkeypatch.setattr(download_module, "try_lock", late)
    with modelyard.connect(server.target) as yard:
        yard.download_file(asset, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA[:size]
    assert memory.downloads == []
    assert _names(tmp_path) == ["copy"]


@pytest.mark.skipif(sys.platform == "win32", reason="other locks")
def test_a_file_system_without_locks(
    download: Download, asset: assets_pb2.Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where there are no locks, a download that is alone is not kept out.
    """

    def fail(_number: int, _operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", fail)
    download(asset, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


def test_waiting_for_another_download_ends_with_the_client(server: Server, memory: Memory, tmp_path: Path) -> None:
    """
    Whoever waits for another download waits no longer than its own client is open.
    """
    asset = memory.put(DATA)
    memory.pause_at = 1
    with ThreadPoolExecutor(2) as pool, modelyard.connect(server.target) as first:
        getting = pool.submit(first.download_file, asset, tmp_path / "copy")
        memory.until_paused()
        told = threading.Event()
        with modelyard.connect(server.target) as second:
            waiting = pool.submit(second.download_file, asset, tmp_path / "copy", progress=lambda *_: told.set())
            assert told.wait(30)
        with pytest.raises(ValueError, match="was closed"):
            waiting.result(30)
        memory.go_on()
        getting.result(30)
    assert (tmp_path / "copy").read_bytes() == DATA


def test_a_full_disk(server: Server, memory: Memory, tmp_path: Path) -> None:
    """
    A file that cannot be written to its end is named, and what came of it is gone on with.
    """
    for size in (PART, SIZE):
        asset = memory.put(DATA[:size])
        with modelyard.connect(server.target) as yard:
            with limited_files(PART // 2), pytest.raises(OSError, match="File too large") as caught:
                yard.download_file(asset.name, tmp_path / "copy")
            assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "copy"))
            yard.download_file(asset.name, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA[:size]
        assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_the_limits_that_users_have(server: Server, memory: Memory, tmp_path: Path) -> None:
    """
    A file of 32 MiB is received in one stream, a larger one in ranges of at least 8 MiB.
    """
    memory.chunk_bytes = MIB
    for size, ranged in ((32 * MIB, []), (32 * MIB + 1, [8 * MIB] * 4 + [1])):
        asset = memory.put(bytes(size))
        memory.downloads.clear()
        with modelyard.connect(server.target) as yard:
            yard.download_file(asset, tmp_path / "copy")
        assert (tmp_path / "copy").stat().st_size == size
        assert [limit for _, limit in sorted(memory.downloads)] == (ranged or [0])
