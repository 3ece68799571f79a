"""
Large files: bounded memory, the right digest, whole and in parts.

`make drill-assets` does it with 5 GiB, `make test` with 80 MiB: more than an upload may take of memory.
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
from services.cdn.tests.calls import MIB, chunk, digest, download, header, some_bytes, upload
from services.cdn.tests.conftest import Cdn, World, serving
from services.cdn.tests.uploading import PART, Client

SIZE = int(os.environ.get("MODELYARD_DRILL_ASSET_MIB", "80")) * MIB
#: Seconds, at 5 MiB/s.
PATIENCE = 60 + SIZE // (5 * MIB)
MOST_MEMORY = 64 * MIB
END = b"the end"


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """
    A sparse file: zeros except for its last bytes.
    """
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip(f"S3 needs room for {SIZE:,} bytes")
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(SIZE - len(END))
        file.write(END)
    return path


@pytest.fixture(scope="module")
async def service(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cdn]:
    """
    A process of the production host that has served an upload of each kind: what the first one loads stays in memory.
    """
    async with serving(world, tmp_path_factory.mktemp("large")) as running:
        await upload(running.stub, some_bytes(2 * PART))
        first = Client(running, some_bytes(2 * PART))
        await first.start()
        await first.write(0)
        await first.finish()
        yield running


@pytest.mark.drill
@pytest.mark.timeout(3 * PATIENCE)
async def test_one_shot_upload(service: Cdn) -> None:
    """
    However large an asset is, a one-shot upload takes at most 64 MiB of memory.
    """
    idle = peak = _memory(service.pid)
    block, sha256 = some_bytes(MIB), hashlib.sha256()
    for _ in range(SIZE // MIB):
        sha256.update(block)

    async def messages() -> AsyncIterator[assets_pb2.UploadRequest]:
        nonlocal peak
        yield header(sha256=sha256.hexdigest(), size=SIZE)
        for offset in range(0, SIZE, MIB):
            yield chunk(offset, block)
            peak = max(peak, _memory(service.pid))

    assert (await service.stub.Upload(messages(), timeout=PATIENCE)).size_bytes == SIZE
    assert peak - idle <= MOST_MEMORY


def _memory(pid: int) -> int:
    launcher = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (launcher, *launcher.children(recursive=True)))


@pytest.mark.drill
@pytest.mark.timeout(3 * PATIENCE)
async def test_a_large_sparse_file(service: Cdn, sparse: Path) -> None:
    """
    However large a file is, a resumable upload takes at most 64 MiB of memory, and the digests of the whole file and of
    its last MiB are right.
    """
    with sparse.open("rb") as file:
        sha256 = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
    idle = peak = _memory(service.pid)
    stub = UploadServiceStub(service.channel)
    name = (await stub.StartUpload(pb.StartUploadRequest(sha256=sha256, size_bytes=SIZE))).name

    async def messages() -> AsyncIterator[pb.WriteUploadRequest]:
        nonlocal peak
        with sparse.open("rb") as file:
            for offset in range(0, SIZE, MIB):
                yield pb.WriteUploadRequest(name=name, chunk=assets_pb2.Chunk(offset=offset, data=file.read(MIB)))
                peak = max(peak, _memory(service.pid))

    assert (await stub.WriteUpload(messages(), timeout=PATIENCE)).committed_bytes == SIZE
    asset = await stub.FinishUpload(pb.FinishUploadRequest(name=name), timeout=PATIENCE)
    assert peak - idle <= MOST_MEMORY
    assert (asset.sha256, asset.size_bytes) == (sha256, SIZE)
    assert await download(service.stub, asset.name, SIZE - MIB) == (end := bytes(MIB - len(END)) + END, digest(end))
    found = hashlib.sha256()
    async for message in service.stub.Download(assets_pb2.DownloadRequest(name=asset.name), timeout=PATIENCE):
        found.update(message.chunk.data)
    assert found.hexdigest() == sha256
    await service.store.no_open_uploads("")
