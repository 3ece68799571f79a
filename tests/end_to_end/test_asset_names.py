"""
Names that other systems stumble over, and a file without bytes, through the whole suite.
"""

from __future__ import annotations

import hashlib
import random
import urllib.parse
import urllib.request

import grpc
import pytest

import modelyard
from embedded.stack import Stack
from modelyard.cdn.v1 import assets_pb2, delivery_pb2, uploads_pb2
from modelyard.registry.v1 import models_pb2, versions_pb2

PATH = "模型/🦜 ¼.bin"
BAD_PATHS = ("../x", "a/../x", "a/..", "..", "a\0b", "🦜\0")


def upload(yard: modelyard.Client, data: bytes) -> assets_pb2.Asset:
    """
    Upload *data*.
    """
    header = assets_pb2.UploadRequest.Header(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    messages = [assets_pb2.UploadRequest(header=header)]
    if data:
        messages.append(assets_pb2.UploadRequest(chunk=assets_pb2.Chunk(data=data)))
    return yard.assets.Upload(iter(messages))


def fetch(stack: Stack, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    """
    Status, length and body of what the gateway serves under a path.
    """
    url = f"http://{stack.gateway}/{urllib.parse.quote(path)}"
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own gateway
        return answer.status, answer.headers["content-length"], answer.read()


@pytest.fixture
def model(yard: modelyard.Client) -> str:
    """
    A new model.
    """
    model_id = f"named-{random.SystemRandom().randbytes(4).hex()}"
    return yard.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id=model_id)).name


def test_an_artifact_with_four_byte_characters(yard: modelyard.Client, model: str) -> None:
    """
    A version with such a file becomes READY, names it as it was given, and pins it.
    """
    data = random.SystemRandom().randbytes(1000)
    asset = upload(yard, data)
    artifact = versions_pb2.Artifact(path=PATH, sha256=asset.sha256, size_bytes=len(data))
    made = yard.versions.CreateVersion(
        versions_pb2.CreateVersionRequest(parent=model, version=versions_pb2.Version(artifacts=[artifact]))
    )
    ready = yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    assert ready.state == versions_pb2.Version.STATE_READY
    assert [each.path for each in ready.artifacts] == [PATH]
    pinned = yard.assets.ListAssets(assets_pb2.ListAssetsRequest(owner=made.name)).assets
    assert [each.name for each in pinned] == [asset.name]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_artifacts_that_lead_elsewhere(yard: modelyard.Client, model: str, path: str) -> None:
    """
    A path that leaves its folder, or that no file can have, makes no version.
    """
    artifact = versions_pb2.Artifact(path=path, sha256="0" * 64, size_bytes=1)
    with pytest.raises(grpc.RpcError) as caught:
        yard.versions.CreateVersion(
            versions_pb2.CreateVersionRequest(parent=model, version=versions_pb2.Version(artifacts=[artifact]))
        )
    assert refused_field(caught.value) == {"version.artifacts[0].path"}
    assert not yard.versions.ListVersions(versions_pb2.ListVersionsRequest(parent=model)).versions


def test_a_static_file_with_four_byte_characters(stack: Stack, yard: modelyard.Client) -> None:
    """
    It is served under its percent-encoded path, its asset is pinned under its name, and it can be taken away.
    """
    data = random.SystemRandom().randbytes(1000)
    asset, name = upload(yard, data), f"static/{PATH}"
    request = delivery_pb2.PutStaticFileRequest(static_file=delivery_pb2.StaticFile(name=name, asset=asset.name))
    assert yard.delivery.PutStaticFile(request).name == name
    assert yard.delivery.GetStaticFile(delivery_pb2.GetStaticFileRequest(name=name)).asset == asset.name
    assert fetch(stack, name) == (200, "1000", data)
    assert [each.name for each in yard.assets.ListAssets(assets_pb2.ListAssetsRequest(owner=name)).assets] == [
        asset.name
    ]
    yard.delivery.DeleteStaticFile(delivery_pb2.DeleteStaticFileRequest(name=name))
    assert not yard.assets.ListAssets(assets_pb2.ListAssetsRequest(owner=name)).assets


@pytest.mark.parametrize("path", BAD_PATHS)
def test_static_files_that_lead_elsewhere(stack: Stack, yard: modelyard.Client, path: str) -> None:
    """
    Such a path is nobody's: no static file, no owner of pins or of uploads.
    """
    asset, name = upload(yard, b"of no static file"), f"static/{path}"
    put = delivery_pb2.PutStaticFileRequest(static_file=delivery_pb2.StaticFile(name=name, asset=asset.name))
    with pytest.raises(grpc.RpcError) as caught:
        yard.delivery.PutStaticFile(put)
    assert refused_field(caught.value) == {"static_file.name"}
    host, port = stack.services["cdn"].addresses[0]
    with modelyard.connect(f"{host}:{port}") as registry, pytest.raises(grpc.RpcError) as caught:
        registry.assets.Pin(assets_pb2.PinRequest(names=[asset.name], owner=name))
    assert refused_field(caught.value) == {"owner"}
    start = uploads_pb2.StartUploadRequest(sha256=asset.sha256, size_bytes=asset.size_bytes, owner=name)
    with pytest.raises(grpc.RpcError) as caught:
        yard.uploads.StartUpload(start)
    assert refused_field(caught.value) == {"owner"}


def test_a_file_without_bytes(stack: Stack, yard: modelyard.Client, model: str) -> None:
    """
    It is an artifact like others, and is served over HTTP as nothing: 200 with the length 0.
    """
    asset = upload(yard, b"")
    artifact = versions_pb2.Artifact(path="empty", sha256=asset.sha256, size_bytes=0)
    made = yard.versions.CreateVersion(
        versions_pb2.CreateVersionRequest(parent=model, version=versions_pb2.Version(artifacts=[artifact]))
    )
    ready = yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    assert ready.state == versions_pb2.Version.STATE_READY
    for method in ("GET", "HEAD"):
        assert fetch(stack, asset.name, method) == (200, "0", b"")


def refused_field(error: grpc.RpcError) -> set[str]:
    """
    The fields that an INVALID_ARGUMENT names.
    """
    problem = modelyard.explain(error)
    assert problem.code is grpc.StatusCode.INVALID_ARGUMENT
    return {violation.field for violation in problem.violations}
