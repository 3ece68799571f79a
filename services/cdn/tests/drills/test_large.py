"""
A large sparse file: little memory, the right digest, whole and in parts.

`make drill-assets` does it with 5 GiB, `make test` with 128 MiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceStub
from services.cdn.tests.calls import MIB, digest, download, some_bytes
from services.cdn.tests.conftest import Cdn
from services.cdn.tests.uploading import PART, Client

SIZE = int(os.environ.get("MODELYARD_DRILL_ASSET_MIB", "128")) * MIB
#: At 5 MiB/s.
PATIENCE = 60 + SIZE // (5 * MIB)
MOST_MEMORY = 64 * MIB
END = b"the end"


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """
    A file that is zeros but for its last bytes, and takes no room.
    """
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip(f"S3 needs room for {SIZE:,} bytes")
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(SIZE - len(END))
        file.write(END)
    return path


def _memory(pid: int) -> int:
    launcher = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (launcher, *launcher.children(recursive=True)))


@pytest.mark.drill
@pytest.mark.timeout(3 * PATIENCE)
async def test_a_large_sparse_file(own_cdn: Cdn, sparse: Path) -> None:
    """
    However large a file is, its upload takes at most 64 MiB of memory, its digest is right, and so are its last bytes.
    """
    with sparse.open("rb") as file:
        sha256 = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
    # What the first upload loads stays.
    first = Client(own_cdn, some_bytes(3 * PART))
    await first.start()
    await first.write(0)
    await first.finish()
    idle = peak = _memory(own_cdn.pid)
    stub = UploadServiceStub(own_cdn.channel)
    name = (await stub.StartUpload(pb.StartUploadRequest(sha256=sha256, size_bytes=SIZE))).name

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        nonlocal peak
        with sparse.open("rb") as file:
            for offset in range(0, SIZE, MIB):
                yield pb.WriteUploadRequest(name=name, chunk=assets_pb2.Chunk(offset=offset, data=file.read(MIB)))
                peak = max(peak, _memory(own_cdn.pid))

    assert (await stub.WriteUpload(messages(), timeout=PATIENCE)).committed_bytes == SIZE
    asset = await stub.FinishUpload(pb.FinishUploadRequest(name=name), timeout=PATIENCE)
    assert peak - idle <= MOST_MEMORY
    assert (asset.sha256, asset.size_bytes) == (sha256, SIZE)
    assert await download(own_cdn.stub, asset.name, SIZE - MIB) == (end := bytes(MIB - len(END)) + END, digest(end))
    found = hashlib.sha256()
    async for message in own_cdn.stub.Download(assets_pb2.DownloadRequest(name=asset.name), timeout=PATIENCE):
        found.update(message.chunk.data)
    assert found.hexdigest() == sha256
    await own_cdn.store.no_open_uploads("")
