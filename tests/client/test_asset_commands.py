"""
`modelyard assets …`: what the commands ask for, and how they tell the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2, delivery_pb2
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceServicer, add_AssetServiceServicer_to_server
from modelyard.cdn.v1.delivery_pb2_grpc import DeliveryServiceServicer, add_DeliveryServiceServicer_to_server
from modelyard.cli.main import main
from tests.client.memory import Memory, serving

DIGEST = "0" * 64


class Recorder(AssetServiceServicer, DeliveryServiceServicer):
    """
    Remembers requests, and gives the same answers always.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.parts = 0

    def ListAssets(self, request: Any, context: Any) -> assets_pb2.ListAssetsResponse:  # noqa: N802
        self.requests.append(request)
        asset = assets_pb2.Asset(name=f"assets/{DIGEST}", sha256=DIGEST, size_bytes=2048)
        return assets_pb2.ListAssetsResponse(assets=[asset])

    def GetAsset(self, request: Any, context: Any) -> assets_pb2.Asset:  # noqa: N802
        return assets_pb2.Asset(
            name=request.name, private=True, content_encodings=["gzip", "zstd"], parameter_count=25_000_000
        )

    def DeleteAsset(self, request: Any, context: Any) -> assets_pb2.DeleteAssetResponse:  # noqa: N802
        self.requests.append(request)
        return assets_pb2.DeleteAssetResponse()

    def CollectGarbage(self, request: Any, context: Any) -> assets_pb2.CollectGarbageResponse:  # noqa: N802
        self.requests.append(request)
        if request.page_token or self.parts:
            left = len(self.requests) < self.parts
            token, names = f"{request.page_token}+" if left else "", ["assets/x"] * 600
            return assets_pb2.CollectGarbageResponse(
                condemned_count=600, deleted_bytes=7, failed_count=1, names=names, next_page_token=token
            )
        return assets_pb2.CollectGarbageResponse(
            condemned_count=25,
            condemned_bytes=3 << 30,
            deleted_count=1234,
            deleted_bytes=5 << 20,
            names=[f"assets/{number}" for number in range(25)],
        )

    def SignUrl(self, request: Any, context: Any) -> delivery_pb2.SignUrlResponse:  # noqa: N802
        self.requests.append(request)
        response = delivery_pb2.SignUrlResponse(url="https://cdn/x?signature=y")
        response.expire_time.FromJsonString("2026-01-31T12:00:00Z")
        return response


@pytest.fixture
def recorder() -> Recorder:
    """
    The services.
    """
    return Recorder()  # type: ignore[abstract]


@pytest.fixture
def target(recorder: Recorder) -> Iterator[str]:
    """
    Where they are.
    """
    server = grpc.server(ThreadPoolExecutor(2))
    add_AssetServiceServicer_to_server(recorder, server)
    add_DeliveryServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def _run(target: str, *arguments: str) -> int:
    return main(["--target", target, "assets", *arguments])


def test_put(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Several files go in one command; owner, privacy and type go along with each.
    """
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    memory = Memory()
    with serving(memory) as server:
        more = ("--owner", "static/x", "--private", "--media-type", "text/x-y")
        assert _run(server.target, "put", str(tmp_path / "a"), str(tmp_path / "b"), *more) == 0
    assert list(memory.headers.values()) == [("text/x-y", "static/x", True)] * 2
    assert capsys.readouterr().out.count("name ") == 2


def test_ls(target: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The owner is asked for.
    """
    assert _run(target, "ls", "--owner", "static/x") == 0
    assert recorder.requests[0].owner == "static/x"
    assert DIGEST in capsys.readouterr().out


def test_stat(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What the service found out about an asset is shown.
    """
    assert _run(target, "stat", DIGEST) == 0
    shown = capsys.readouterr().out
    assert "encodings   gzip, zstd" in shown
    assert "parameters  25,000,000" in shown
    assert "private     yes" in shown


def test_rm(target: str, recorder: Recorder) -> None:
    """
    Several assets go in one command, each with a request id of its own.
    """
    assert _run(target, "rm", DIGEST, f"assets/{'1' * 64}") == 0
    assert [request.name for request in recorder.requests] == [f"assets/{DIGEST}", f"assets/{'1' * 64}"]
    assert len({request.request_id for request in recorder.requests} - {""}) == 2


def test_url(target: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Only the address is on stdout, so that it can be given to another program; an asset or a version is signed for.
    """
    assert _run(target, "url", DIGEST, "--ttl", "30m", "--ip", "192.0.2.0/24", "--name", "w.bin") == 0
    printed = capsys.readouterr()
    assert printed.out == "https://cdn/x?signature=y\n"
    assert printed.err == "until 2026-01-31 12:00:00 UTC\n"
    assert _run(target, "url", "m@3") == 0
    first, second = recorder.requests
    assert (first.asset, first.ttl.seconds, first.ip_range, first.download_name) == (
        f"assets/{DIGEST}",
        1800,
        "192.0.2.0/24",
        "w.bin",
    )
    assert (second.version, second.HasField("ttl")) == ("namespaces/default/models/m/versions/3", False)


def test_gc(target: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The summary says what went, or what would; the names are cut off, in JSON they are all there.
    """
    assert _run(target, "gc", "--dry-run", "--grace", "7d") == 0
    shown = capsys.readouterr().out
    assert "would be marked for deletion  25 assets, 3.0 GiB" in shown
    assert "bytes would be deleted        1,234 assets, 5.0 MiB" in shown
    assert shown.count("assets/") == 20
    assert "…" in shown
    assert _run(target, "gc", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["names"]) == 25
    first, second = recorder.requests
    assert (first.dry_run, first.grace.seconds) == (True, 7 * 86400)
    assert (second.dry_run, second.HasField("grace")) == (False, False)


def test_gc_in_parts(target: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The service is asked until nothing is left to do; the summary is of all of it, how far it is is said meanwhile,
    and so is what the object store did not delete.
    """
    recorder.parts = 3
    assert _run(target, "gc", "--grace", "7d") == 0
    printed = capsys.readouterr()
    assert "marked for deletion  1,800 assets" in printed.out
    assert "so far 1,200 assets marked for deletion" in printed.err
    assert "the bytes of 3 assets" in printed.err
    assert [(each.page_token, each.grace.seconds) for each in recorder.requests] == [
        ("", 604800),
        ("+", 604800),
        ("++", 604800),
    ]
    recorder.requests.clear()
    assert _run(target, "gc", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["condemnedCount"], len(found["names"]), found["nextPageToken"]) == ("1800", 1000, "")


@pytest.mark.parametrize(
    "arguments", [("url", DIGEST, "--ttl", "soon"), ("gc", "--grace", "-1"), ("url", "m@"), ("rm",), ("put",)]
)
def test_wrong_command_lines(target: str, recorder: Recorder, arguments: tuple[str, ...]) -> None:
    """
    What cannot be meant is refused before anything is called.
    """
    with pytest.raises(SystemExit, match="2"):
        _run(target, *arguments)
    assert recorder.requests == []
