"""
A server that sends other bytes than asked for is found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceServicer, add_AssetServiceServicer_to_server

SHA256 = hashlib.sha256(b"right").hexdigest()


class Liar(AssetServiceServicer):
    """
    Claims to have the asset, and sends what it was told to.
    """

    def __init__(self) -> None:
        self.sends: list[tuple[int, bytes]] = []

    def GetAsset(self, request: pb.GetAssetRequest, context: Any) -> pb.Asset:  # noqa: N802
        return pb.Asset(name=request.name, sha256=SHA256, size_bytes=5)

    def Download(self, request: pb.DownloadRequest, context: Any) -> Iterator[pb.DownloadResponse]:  # noqa: N802
        for offset, data in self.sends:
            yield pb.DownloadResponse(chunk=pb.Chunk(offset=offset, data=data))


@pytest.fixture
def liar() -> Iterator[tuple[Liar, modelyard.Client]]:
    """
    The server, and a client of it.
    """
    servicer, server = Liar(), grpc.server(ThreadPoolExecutor(2))  # type: ignore[abstract]
    add_AssetServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with modelyard.connect(f"127.0.0.1:{port}") as yard:
        yield servicer, yard
    server.stop(None).wait()


@pytest.mark.parametrize(
    "sends",
    [[(0, b"wrong")], [(0, b"righty")], [(1, b"ight")], [(0, b"ri"), (1, b"ght")]],
    ids=["other bytes", "too many", "a gap", "bytes twice"],
)
def test_other_bytes(liar: tuple[Liar, modelyard.Client], tmp_path: Path, sends: list[tuple[int, bytes]]) -> None:
    """
    Other bytes, too many, a gap or a repetition: the file does not appear, and the next download is right.
    """
    servicer, yard = liar
    servicer.sends = sends
    with pytest.raises(modelyard.IntegrityError):
        yard.download_file(f"assets/{SHA256}", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    servicer.sends = [(0, b"right")]
    (tmp_path / f".copy.{SHA256[:16]}.part").unlink(missing_ok=True)
    yard.download_file(f"assets/{SHA256}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"right"


def test_fewer_bytes(liar: tuple[Liar, modelyard.Client], tmp_path: Path) -> None:
    """
    A stream that ends early without an error is an error all the same, not an endless loop.
    """
    _, yard = liar
    with pytest.raises(modelyard.IntegrityError):
        yard.download_file(f"assets/{SHA256}", tmp_path / "copy")
