"""
Kill -9 of any one process while writes are running: every acknowledged write is there after a restart.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
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

PARENT = "namespaces/default"
Value = TypeVar("Value")
PARTS = ("postgresql", "valkey", "s3", "registry", "cache", "cdn", "gateway")


@pytest.fixture(scope="module")
def fragile() -> Iterator[Stack]:
    """
    A suite of this module's own, because parts of it are killed.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as running:
        yield running
        # Its data goes with the run: writing it down in good order takes seconds.
        running.kill("s3")


@dataclass
class Writer:
    """
    Writes what the demo writes, over and over, and keeps what was acknowledged.
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
                    time.sleep(0.02)

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


def patiently(read: Callable[[], Value]) -> Value:
    """
    What *read* gives, once everything serves again: the object store finds its volumes some seconds after it answers.
    """
    end = time.monotonic() + 30
    while True:
        try:
            return read()
        except grpc.RpcError as error:
            if modelyard.explain(error).code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
            time.sleep(0.2)


def all_there(yard: modelyard.Client, writer: Writer) -> None:
    """
    Everything that was acknowledged is read again, from the origin and not from a cache.
    """
    fresh = (("cache-control", "no-cache"),)
    for name in writer.models:
        get_model = partial(yard.models.GetModel, models_pb2.GetModelRequest(name=name), metadata=fresh)
        assert patiently(get_model).name == name
    for name in writer.versions:
        get_version = partial(yard.versions.GetVersion, versions_pb2.GetVersionRequest(name=name), metadata=fresh)
        assert patiently(get_version).number == 1
    for name in writer.evaluations:
        request = evaluations_pb2.ListEvaluationsRequest(parent=name)
        assert len(yard.evaluations.ListEvaluations(request, metadata=fresh).evaluations) == 1
    for name, data in writer.assets:
        assert patiently(partial(download, yard, name)) == data


def download(yard: modelyard.Client, name: str) -> bytes:
    """
    The bytes of an asset.
    """
    return b"".join(answer.chunk.data for answer in yard.assets.Download(assets_pb2.DownloadRequest(name=name)))


@pytest.mark.parametrize("part", PARTS)
def test_acknowledged_writes_survive_a_kill(fragile: Stack, part: str) -> None:
    """
    Every write that was acknowledged before, during and after the kill of one process is there once it runs again.
    """
    writer = Writer(fragile, f"kill-{part}")
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        _wait_for(lambda: len(writer.assets) >= 5)
        fragile.kill(part)
        time.sleep(0.5)
        fragile.revive(part)
        written = len(writer.models)
        _wait_for(lambda: len(writer.models) >= written + 5)
    finally:
        writer.ended.set()
        thread.join(timeout=30)
    with modelyard.connect(fragile.gateway) as yard:
        all_there(yard, writer)


@pytest.mark.parametrize("part", ["cdn", "gateway", "s3", "postgresql"])
def test_an_upload_survives_a_kill(fragile: Stack, part: str, tmp_path: Path) -> None:
    """
    The asset is right, and what was there did not go again, when a process on its way was killed in the middle.
    """
    data = random.SystemRandom().randbytes(48 * 1024 * 1024)
    (tmp_path / "file").write_bytes(data)
    request = uploads_pb2.StartUploadRequest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    steps: list[int] = []
    there: list[int] = []

    def kill(done: int, _total: int) -> None:
        if there:
            steps.append(done)
        elif done > 32 * 1024 * 1024:
            # The first part at least: nothing more is sent meanwhile.
            _wait_for(lambda: yard.uploads.StartUpload(request).committed_bytes > 0)
            there.append(yard.uploads.StartUpload(request).committed_bytes)
            fragile.kill(part)
            fragile.revive(part)

    with modelyard.connect(fragile.gateway) as yard:
        asset = yard.upload_file(tmp_path / "file", progress=kill)
        assert there
        assert patiently(partial(download, yard, asset.name)) == data
    assert min(steps) >= there[0] > 0


@pytest.mark.parametrize("part", ["cdn", "gateway", "s3"])
def test_a_download_survives_a_kill(fragile: Stack, part: str, tmp_path: Path) -> None:
    """
    The file is right, and no byte of it came twice, when a process on its way was killed in the middle.
    """
    data = random.SystemRandom().randbytes(48 * 1024 * 1024)
    header = assets_pb2.UploadRequest.Header(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    pieces = range(0, len(data), 1024 * 1024)
    chunks = [assets_pb2.Chunk(offset=offset, data=data[offset : offset + 1024 * 1024]) for offset in pieces]
    messages = [assets_pb2.UploadRequest(header=header), *(assets_pb2.UploadRequest(chunk=chunk) for chunk in chunks)]
    steps: list[int] = []

    def kill(done: int, _total: int) -> None:
        steps.append(done)
        if done > 16 * 1024 * 1024 and not killed:
            killed.append(part)
            fragile.kill(part)
            fragile.revive(part)

    with modelyard.connect(fragile.gateway) as yard:
        killed: list[str] = []
        asset = patiently(lambda: yard.assets.Upload(iter(messages)))
        yard.download_file(asset.name, tmp_path / "copy", progress=kill)
    assert killed
    assert steps == sorted(set(steps))
    assert (tmp_path / "copy").read_bytes() == data


def _wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "writes did not go on"
        time.sleep(0.02)
