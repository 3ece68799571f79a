"""
Uploads: resumed after failures, and bounded in attempts and time.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from modelyard.transfer import retries, uploads
from tests.client.memory import MIB, PART, Memory, Server, serving
from tests.client.processes import transfer

SIZE = 12 * PART + 5

#: Uploads a file with a client of one of the two kinds.
Upload = Callable[..., Any]


pytestmark = pytest.mark.usefixtures("scaled")


@pytest.fixture
def server(memory: Memory) -> Iterator[Server]:
    """
    A server of it.
    """
    with serving(memory) as running:
        yield running


@pytest.fixture(params=["threads", "asyncio"])
def upload(request: pytest.FixtureRequest, server: Server) -> Upload:
    """
    Either client's upload.
    """

    def with_threads(path: Path, **more: Any) -> Any:
        with modelyard.connect(server.target) as yard:
            return yard.upload_file(path, **more)

    def with_asyncio(path: Path, **more: Any) -> Any:
        async def go() -> Any:
            async with modelyard.aio.connect(server.target) as yard:
                return await yard.upload_file(path, **more)

        return asyncio.run(go())

    return with_threads if request.param == "threads" else with_asyncio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """
    A file that is sent in parts.
    """
    path = tmp_path / "weights.bin"
    path.write_bytes(random.SystemRandom().randbytes(SIZE))
    return path


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Short delays between attempts, and half as many of them while another client sends the same file.
    """
    monkeypatch.setattr(retries, "_LONGEST_DELAY", 0.01)
    monkeypatch.setattr(uploads, "_WAIT_PAUSE", 0.002)
    monkeypatch.setattr(uploads, "_WAIT_ASKED", 60)


def test_small_and_large(upload: Upload, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A file of up to 8 MiB is sent in one call, a larger one as a resumable upload; both carry owner and privacy.
    """
    # With the limits that users have.
    monkeypatch.undo()
    memory.part_bytes = MIB
    small, file = tmp_path / "small.txt", tmp_path / "weights.bin"
    small.write_bytes(bytes(8 * MIB))
    file.write_bytes(bytes(8 * MIB + 1))
    for path, calls in ((small, ["Upload"]), (file, ["StartUpload", "WriteUpload", "FinishUpload"])):
        memory.calls.clear()
        asset = upload(path, owner="static/a", private=True)
        assert memory.calls == calls
        assert memory.stored[asset.sha256] == path.read_bytes()
        assert memory.headers[asset.sha256][1:] == ("static/a", True)
    assert memory.received == 2 * 8 * MIB + 1


def test_progress(upload: Upload, file: Path) -> None:
    """
    Hashing and sending are told apart; both end at the whole.
    """
    hashed: list[tuple[int, int]] = []
    sent: list[tuple[int, int]] = []
    upload(file, hashing=lambda *step: hashed.append(step), progress=lambda *step: sent.append(step))
    for steps in (hashed, sent):
        assert steps == sorted(steps)
        assert steps[-1] == (SIZE, SIZE)


def test_what_is_there_is_not_sent(upload: Upload, memory: Memory, file: Path) -> None:
    """
    Of an asset that is there, nothing is sent.
    """
    memory.put(file.read_bytes())
    assert upload(file).size_bytes == SIZE
    assert memory.received == 0


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("breaks", [[1], [PART - 1, PART, PART + 1], [5 * PART + 7, 0, 3 * PART, SIZE]])
def test_a_break_costs_less_than_two_parts(upload: Upload, memory: Memory, file: Path, breaks: list[int]) -> None:
    """
    Wherever a stream breaks, the next one begins where the upload stands.
    """
    memory.break_writes = deque(breaks)
    asset = upload(file)
    assert memory.stored[asset.sha256] == file.read_bytes()
    assert memory.received - SIZE < 2 * memory.part_bytes * len(breaks)
    assert memory.writes == sorted(memory.writes)
    assert all(offset % memory.part_bytes == 0 for offset in memory.writes)


@pytest.mark.usefixtures("hasty")
def test_attempts_without_progress_are_bounded(upload: Upload, memory: Memory, file: Path) -> None:
    """
    A service that takes nothing is left alone after some attempts; one that takes a part each time is not.
    """
    memory.break_writes = deque([10] * 100)
    with pytest.raises(grpc.RpcError) as caught:
        upload(file)
    assert modelyard.explain(caught.value).code is grpc.StatusCode.UNAVAILABLE
    assert 1 < len(memory.writes) < 20
    memory.break_writes = deque([PART] * 11)
    assert upload(file).size_bytes == SIZE
    assert not memory.break_writes


@pytest.mark.usefixtures("hasty")
def test_a_stream_that_ends_early(upload: Upload, memory: Memory, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A service that ends streams without an error and without taking anything is given up, too.
    """
    monkeypatch.setattr("tests.client.memory.Uploads._commit", lambda *_: None)
    memory.part_bytes = SIZE * 2
    with pytest.raises(modelyard.IntegrityError, match="without an error"):
        upload(file)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("reason", ["UPLOAD_TAKEN_OVER", "UPLOAD_IN_USE"])
def test_another_client_sends_the_same_file(upload: Upload, memory: Memory, file: Path, reason: str) -> None:
    """
    While another client sends the same file, this one asks where the upload stands, sends nothing, and goes on when it
    is let; also when it hears of the other one from a stream of its own.
    """
    memory.answers["WriteUpload"] = deque([(grpc.StatusCode.ABORTED, reason)] * 20)
    memory.in_use = 20
    upload(file)
    assert memory.calls.count("StartUpload") == 41
    assert memory.calls.count("WriteUpload") == 21
    assert memory.stored


@pytest.mark.usefixtures("hasty")
def test_another_client_that_does_not_get_on(upload: Upload, memory: Memory, file: Path) -> None:
    """
    Waiting for another client ends when nothing comes of it.
    """
    memory.in_use = 10_000
    with pytest.raises(modelyard.IntegrityError, match="without progress"):
        upload(file)
    assert "WriteUpload" not in memory.calls


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("method", "code", "reason"),
    [
        ("WriteUpload", grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP"),
        ("WriteUpload", grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND"),
        ("WriteUpload", grpc.StatusCode.ABORTED, "UPLOAD_IDLE"),
        ("StartUpload", grpc.StatusCode.UNAVAILABLE, ""),
        ("FinishUpload", grpc.StatusCode.UNAVAILABLE, "CDN_STARTING"),
        ("FinishUpload", grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE"),
        ("FinishUpload", grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        ("FinishUpload", grpc.StatusCode.ABORTED, "PARTS_REPLACED"),
        ("StartUpload", grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    ],
)
def test_goes_on(upload: Upload, memory: Memory, file: Path, method: str, code: grpc.StatusCode, reason: str) -> None:
    """
    After what another attempt may mend, the upload is asked where it stands, and goes on.
    """
    memory.answers[method] = deque([(code, reason)] * 2)
    assert upload(file).size_bytes == SIZE
    assert memory.calls.count(method) == 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("reason", ["TOKEN_EXPIRED", "TOKEN_INVALID"])
def test_a_token_that_ends_in_an_upload(upload: Upload, memory: Memory, file: Path, reason: str) -> None:
    """
    A stream ends when its token expires: the upload resumes with the token that the file holds by then; when that one
    is rejected as well, the upload fails.
    """
    refused = (grpc.StatusCode.UNAUTHENTICATED, reason)
    memory.answers["WriteUpload"] = deque([refused])
    assert upload(file).size_bytes == SIZE
    assert memory.calls.count("WriteUpload") == 2
    memory.stored.clear()
    memory.opened.clear()
    memory.calls.clear()
    memory.answers["WriteUpload"] = deque([refused] * 10)
    with pytest.raises(grpc.RpcError):
        upload(file)
    # Twice; once more for each time that grpc.aio reports another error than the service's (see `retries._lost`), and
    # fewer times than an unavailable service is called.
    assert 2 <= memory.calls.count("WriteUpload") < 8


@pytest.mark.usefixtures("hasty")
def test_a_small_file_that_stalled(upload: Upload, memory: Memory, tmp_path: Path) -> None:
    """
    A small file is sent again when its stream stalled for too long, as a laptop's does that sleeps.
    """
    small = tmp_path / "small.txt"
    small.write_bytes(b"small")
    memory.answers["Upload"] = deque([(grpc.StatusCode.ABORTED, "UPLOAD_IDLE")] * 2)
    assert upload(small).size_bytes == 5
    assert memory.calls == ["Upload"] * 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("method", ["FinishUpload", "WriteUpload"])
def test_finishing_takes_its_time(upload: Upload, memory: Memory, file: Path, method: str) -> None:
    """
    While another call finishes the upload, it is asked for more often than anything that fails.
    """
    memory.answers[method] = deque([(grpc.StatusCode.ABORTED, "UPLOAD_FINISHING")] * 30)
    assert upload(file).size_bytes == SIZE
    memory.stored.clear()
    memory.opened.clear()
    memory.answers[method] = deque([(grpc.StatusCode.ABORTED, "UPLOAD_FINISHING")] * 1000)
    with pytest.raises(grpc.RpcError):
        upload(file)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, "ASSET_QUOTA"), (grpc.StatusCode.PERMISSION_DENIED, "")],
)
def test_what_does_not_help(upload: Upload, memory: Memory, file: Path, code: grpc.StatusCode, reason: str) -> None:
    """
    What another attempt cannot mend ends the upload at once.
    """
    memory.answers["StartUpload"] = deque([(code, reason)])
    with pytest.raises(grpc.RpcError):
        upload(file)
    assert memory.calls == ["StartUpload"]


@pytest.mark.parametrize("size", [PART * 5, SIZE], ids=["small", "large"])
@pytest.mark.parametrize("how", ["same size", "shorter", "longer", "another file"])
def test_a_file_that_changes(upload: Upload, memory: Memory, tmp_path: Path, size: int, how: str) -> None:
    """
    A file that changes while it is sent is said so, however it changes, and nothing is stored.
    """
    file = tmp_path / "weights.bin"
    file.write_bytes(random.SystemRandom().randbytes(size))
    os.utime(file, (1, 1))

    def change(done: int, _total: int) -> None:
        if done == 2 * PART:
            if how == "another file":
                (tmp_path / "new").write_bytes(bytes(size))
                (tmp_path / "new").replace(file)
            with file.open("r+b") as opened:
                opened.seek(4 * PART)
                opened.write(bytes(PART))
                if how == "shorter":
                    opened.truncate(4 * PART)
                if how == "longer":
                    opened.seek(size)
                    opened.write(b"more")

    if how == "another file":
        # An open file stays what it was: only the next attempt meets the other one.
        memory.break_writes = deque([3 * PART])
        if size < SIZE:
            assert upload(file, progress=change).size_bytes == size
            return
    with pytest.raises(modelyard.FileChangedError, match=r"weights\.bin changed while it was sent"):
        upload(file, progress=change)
    assert not memory.stored


def test_a_pipe(upload: Upload, memory: Memory, tmp_path: Path) -> None:
    """
    What cannot be read twice is no file to upload.
    """
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="read twice"):
        upload(tmp_path / "pipe")
    assert memory.calls == []


def test_a_file_that_changes_unseen(upload: Upload, memory: Memory, file: Path) -> None:
    """
    A change that keeps size and time is found by the service, and told as what it is.
    """
    times = file.stat()

    def change(done: int, _total: int) -> None:
        if done == 2 * PART:
            with file.open("r+b") as opened:
                opened.seek(4 * PART)
                opened.write(bytes(PART))
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(modelyard.FileChangedError):
        upload(file, progress=change)
    assert not memory.stored
    assert not memory.opened


def test_a_service_that_finds_other_bytes(upload: Upload, memory: Memory, file: Path) -> None:
    """
    When the file is as it was, a digest that does not match is the service's error, told as it tells it.
    """
    memory.answers["FinishUpload"] = deque([(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")])
    with pytest.raises(grpc.RpcError) as caught:
        upload(file)
    assert modelyard.explain(caught.value).reason == "DIGEST_MISMATCH"


def test_what_the_progress_raises(upload: Upload, memory: Memory, file: Path) -> None:
    """
    What the progress raises ends the upload, and comes out.
    """

    def enough(done: int, _total: int) -> None:
        if done > 3 * PART:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        upload(file, progress=enough)
    assert upload(file).size_bytes == SIZE
    assert memory.received < SIZE + 2 * memory.part_bytes


def test_a_server_that_comes_back(upload: Upload, server: Server, memory: Memory, file: Path) -> None:
    """
    A server that dies in the middle and comes back goes on with what it had.
    """
    memory.pause_at = 6 * PART

    def restart() -> None:
        memory.until_paused()
        server.stop()
        memory.go_on()
        server.start()

    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        asset = upload(file)
        restarted.result()
    assert memory.stored[asset.sha256] == file.read_bytes()
    assert memory.received < SIZE + 2 * memory.part_bytes + PART
    assert len(memory.writes) > 1


async def test_a_task_that_is_cancelled(server: Server, memory: Memory, file: Path) -> None:
    """
    A cancelled upload ends, and the next one goes on with the parts that came.
    """
    data = file.read_bytes()  # noqa: ASYNC240 - nothing else runs yet
    memory.pause_at = 6 * PART
    async with modelyard.aio.connect(server.target) as yard:
        task = asyncio.create_task(yard.upload_file(file))
        await asyncio.to_thread(memory.until_paused)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not memory.stored
        memory.go_on()
        await yard.upload_file(file)
    assert list(memory.stored.values()) == [data]
    assert memory.writes[-1] > 0


def test_a_client_that_is_killed(server: Server, memory: Memory, file: Path) -> None:
    """
    A client that is killed and started again goes on by itself: nothing but the file is needed for that.
    """
    memory.part_bytes = 4 * PART
    memory.pause_at = 5 * PART
    sender = transfer(server.target, f"upload_file({str(file)!r})")
    memory.until_paused()
    sender.kill()
    sender.wait()
    memory.go_on()
    first = memory.received
    with modelyard.connect(server.target) as yard:
        yard.upload_file(file)
    assert list(memory.stored.values()) == [file.read_bytes()]
    assert first >= 5 * PART
    assert memory.writes[-1] >= 4 * PART


def test_damaged_chunks_are_sent_again(upload: Upload, memory: Memory, tmp_path: Path) -> None:
    """
    Every chunk says its CRC-32, and when one comes damaged the upload goes on where it stands.
    """
    data = random.SystemRandom().randbytes(SIZE)
    (tmp_path / "file").write_bytes(data)
    memory.answers["WriteUpload"] = deque([(grpc.StatusCode.ABORTED, "CHUNK_DAMAGED")])
    assert memory.stored[upload(tmp_path / "file").sha256] == data
    assert memory.calls.count("WriteUpload") == 2
    (tmp_path / "file").write_bytes(b"small")
    memory.answers["Upload"] = deque([(grpc.StatusCode.ABORTED, "CHUNK_DAMAGED")])
    assert memory.stored[upload(tmp_path / "file").sha256] == b"small"
