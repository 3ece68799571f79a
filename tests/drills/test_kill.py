"""
SIGKILL each process of the suite under load: acknowledged writes survive, and uploads and downloads resume.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

import modelyard
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from modelyard.registry.v1 import evaluations_pb2, models_pb2, versions_pb2
from modelyard.transfer.range_download import RANGED_BYTES

PARENT = "namespaces/default"
Value = TypeVar("Value")
PARTS = ("postgresql", "valkey", "s3", "registry", "cache", "cdn", "gateway")
#: The processes that an upload and a download pass through.
UPLOAD_PARTS = {"cdn", "gateway", "s3", "postgresql"}
DOWNLOAD_PARTS = {"cdn", "gateway", "s3"}
_MIB = 1024 * 1024
# An upload is interrupted when its first part (8 MiB) is committed; a download, large enough to be made in parallel
# ranges, while most of it has not been received.
_UPLOAD_BYTES, _DOWNLOAD_BYTES = 24 * _MIB, RANGED_BYTES + _MIB
_UPLOADED, _DOWNLOADED = 12 * _MIB, 4 * _MIB
#: Complete series of writes before and after each kill.
_WRITES = 3


@pytest.fixture(scope="module")
def suite() -> Iterator[Stack]:
    """
    The suite whose parts are killed.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running
        # Kill everything: the data is discarded, and an orderly shutdown would take seconds.
        for part in reversed(PARTS[1:]):
            running.kill(part)


@dataclass
class Writer:
    """
    Repeats the demo's writes and records those that were acknowledged.
    """

    stack: Stack
    prefix: str
    models: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)
    assets: list[tuple[str, bytes]] = field(default_factory=list)
    refused: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        with modelyard.connect(self.stack.gateway, deadline=2) as yard:
            while not self.ended.is_set():
                number += 1
                try:
                    self._write(yard, f"{self.prefix}-{number}")
                except grpc.RpcError:
                    self.refused += 1
                # Each kill interrupts some writes, and they are few enough to read all of them again.
                self.ended.wait(0.1)

    def _write(self, yard: modelyard.Client, model_id: str) -> None:
        model = yard.models.CreateModel(
            models_pb2.CreateModelRequest(parent=PARENT, model_id=model_id, model=models_pb2.Model(owner=model_id))
        )
        self.models.append(model.name)
        version = yard.versions.CreateVersion(
            versions_pb2.CreateVersionRequest(parent=model.name, version=versions_pb2.Version(description=model_id))
        )
        self.versions.append(version.name)
        evaluation = evaluations_pb2.Evaluation(version=version.name, dataset="d", metric="m", value=1.0)
        yard.evaluations.RecordEvaluations(
            evaluations_pb2.RecordEvaluationsRequest(parent=PARENT, evaluations=[evaluation])
        )
        self.evaluations.append(version.name)
        data = model_id.encode() * 1000
        digest = hashlib.sha256(data).hexdigest()
        header = assets_pb2.UploadRequest.Header(sha256=digest, size_bytes=len(data))
        chunk = assets_pb2.Chunk(data=data)
        asset = yard.assets.Upload(
            iter([assets_pb2.UploadRequest(header=header), assets_pb2.UploadRequest(chunk=chunk)]), timeout=2
        )
        self.assets.append((asset.name, data))


def retry_unavailable(read: Callable[[], Value]) -> Value:
    """
    Repeat *read* while it is UNAVAILABLE: after a restart, the object store needs seconds to find its volumes.
    """
    end = time.monotonic() + 90
    while True:
        try:
            return read()
        except grpc.RpcError as error:
            if modelyard.explain(error).code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
            time.sleep(0.2)


def check_writes(yard: modelyard.Client, writer: Writer) -> None:
    """
    Check that the origin returns every acknowledged write; the cache is bypassed.
    """
    fresh = (("cache-control", "no-cache"),)
    for name in writer.models:
        get_model = partial(yard.models.GetModel, models_pb2.GetModelRequest(name=name), metadata=fresh)
        assert retry_unavailable(get_model).name == name
    for name in writer.versions:
        get_version = partial(yard.versions.GetVersion, versions_pb2.GetVersionRequest(name=name), metadata=fresh)
        assert retry_unavailable(get_version).number == 1
    for name in writer.evaluations:
        request = evaluations_pb2.ListEvaluationsRequest(parent=name)
        assert len(yard.evaluations.ListEvaluations(request, metadata=fresh).evaluations) == 1
    for name, data in writer.assets:
        assert retry_unavailable(partial(download, yard, name)) == data


def download(yard: modelyard.Client, name: str) -> bytes:
    """
    Download an asset.
    """
    return b"".join(answer.chunk.data for answer in yard.assets.Download(assets_pb2.DownloadRequest(name=name)))


class Kill:
    """
    Kills one process when all parties have reached `wait`, and lets them continue once it is restarted.

    Args:
        stack: the suite.
        part: the process.
        parties: how many threads call `wait`.
    """

    def __init__(self, stack: Stack, part: str, parties: int) -> None:
        self._stack, self._part = stack, part
        self._barrier = threading.Barrier(parties, action=self._kill, timeout=90)

    def wait(self) -> None:
        self._barrier.wait()

    def _kill(self) -> None:
        self._stack.kill(self._part)
        # Writes are attempted while the process is down.
        if self._barrier.parties == 1:
            time.sleep(0.5)
        self._stack.revive(self._part)
        # Transfers wait meanwhile: they retry for a limited time.
        _wait_for(self._is_healthy)

    def _is_healthy(self) -> bool:
        """
        Whether the gateway uses every service.
        """
        with suppress(OSError), urllib.request.urlopen(self._stack.gateway_metrics, timeout=5) as answer:  # noqa: S310
            page = answer.read().decode()
            healthy = 'envoy_cluster_membership_healthy{{envoy_cluster_name="{}"}} 1\n'
            return all(healthy.format(name) in page for name in self._stack.services)
        return False


@pytest.fixture(scope="module")
def stored(suite: Stack) -> tuple[str, bytes]:
    """
    The name and the content of an asset to download.
    """
    data = random.SystemRandom().randbytes(_DOWNLOAD_BYTES)
    header = assets_pb2.UploadRequest.Header(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    chunks = [
        assets_pb2.Chunk(offset=offset, data=data[offset : offset + _MIB]) for offset in range(0, _DOWNLOAD_BYTES, _MIB)
    ]
    messages = [assets_pb2.UploadRequest(header=header), *(assets_pb2.UploadRequest(chunk=chunk) for chunk in chunks)]
    with modelyard.connect(suite.gateway) as yard:
        return retry_unavailable(lambda: yard.assets.Upload(iter(messages))).name, data


def interrupted_upload(stack: Stack, kill: Kill, file: Path) -> None:
    """
    The asset is intact, and no committed byte was lost, when a process is killed in the middle of its upload.
    """
    data = random.SystemRandom().randbytes(_UPLOAD_BYTES)
    file.write_bytes(data)
    request = uploads_pb2.StartUploadRequest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    steps: list[int] = []
    committed: list[int] = []

    def progress(done: int, _total: int) -> None:
        if committed:
            steps.append(done)
        elif done > _UPLOADED:
            # The first part is committed, and nothing more is sent meanwhile.
            _wait_for(lambda: yard.uploads.StartUpload(request).committed_bytes > 0)
            committed.append(yard.uploads.StartUpload(request).committed_bytes)
            kill.wait()

    with modelyard.connect(stack.gateway) as yard:
        # The client's own retries end after 8 to 16 seconds; a restart may take longer on a loaded machine.
        asset = retry_unavailable(lambda: yard.upload_file(file, progress=progress))
        assert committed
        assert retry_unavailable(partial(download, yard, asset.name)) == data
    assert min(steps) >= committed[0] > 0


def interrupted_download(stack: Stack, kill: Kill, stored: tuple[str, bytes], file: Path) -> None:
    """
    The file is intact, and no byte was received twice, when a process is killed in the middle of its download.
    """
    name, data = stored
    steps: list[int] = []
    killed: list[int] = []

    def progress(done: int, _total: int) -> None:
        steps.append(done)
        if done > _DOWNLOADED and not killed:
            killed.append(done)
            kill.wait()

    with modelyard.connect(stack.gateway) as yard:
        yard.download_file(name, file, progress=progress)
    assert killed
    assert steps == sorted(set(steps))
    assert file.read_bytes() == data


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
def test_a_kill_loses_nothing(suite: Stack, stored: tuple[str, bytes], part: str, tmp_path: Path) -> None:
    """
    Every write that was acknowledged before, during or after the kill of one process exists once that is restarted. An
    upload and a download that pass through it resume where they were.
    """
    uploads, downloads = part in UPLOAD_PARTS, part in DOWNLOAD_PARTS
    kill, writer = Kill(suite, part, 1 + uploads + downloads), Writer(suite, f"kill-{part}")
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(writer.run)]
        try:
            _wait_for(lambda: len(writer.assets) >= _WRITES)
            if uploads:
                running.append(threads.submit(interrupted_upload, suite, kill, tmp_path / "file"))
            if downloads:
                running.append(threads.submit(interrupted_download, suite, kill, stored, tmp_path / "copy"))
            kill.wait()
            written = len(writer.assets)
            _wait_for(lambda: len(writer.assets) >= written + _WRITES)
        finally:
            writer.ended.set()
        for each in running:
            each.result(timeout=120)
    with modelyard.connect(suite.gateway) as yard:
        check_writes(yard, writer)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
