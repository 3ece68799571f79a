"""
Private assets in every mode of access control, by every RPC that could tell of them, with every kind of token, at the
gateway and at the service's port.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.postgres import ASSETS_DATABASE
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.cdn.v1 import assets_pb2, delivery_pb2, uploads_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import public_scopes
from modelyard.tokens import mint
from services.cdn.tests.model_files import safetensors, tensor

READ = "assets.read"
#: What tells two calls apart that say the same.
_PASSING = {"x-request-id", "age", "date", "server", "x-envoy-upstream-service-time"}


@dataclass(frozen=True)
class House:
    """
    A suite with a private asset in it.

    Args:
        name: of the asset, a safetensors file.
        absent: the name of one that is not there.
    """

    stack: Stack
    mode: str
    data: bytes
    name: str
    absent: str

    def token(self, *scopes: str) -> str:
        """
        A token with these scopes.
        """
        return mint(self.stack.settings.state / "access" / "key.pem", "somebody", scopes, 600.0)

    def target(self, way: str) -> str:
        """
        Where calls go.
        """
        host, port = self.stack.services["cdn"].addresses[0]
        return self.stack.gateway if way == "gateway" else f"{host}:{port}"

    def wait_for_the_cache(self) -> None:
        """
        Until the gateway asks the cache (the asset service itself names no `x-cache`), and the cache follows the change
        stream of the assets: before that every read is a bypass.
        """
        # Answers are cached for callers who see everything.
        token = None if self.mode == "off" else self.token(READ, "admin")
        request = assets_pb2.GetAssetRequest(name=f"assets/{os.urandom(32).hex()}")
        ends, seen = time.monotonic() + 30, False
        with modelyard.connect(self.stack.gateway, token) as yard:
            while not seen and time.monotonic() < ends:
                with pytest.raises(grpc.RpcError) as absent:
                    yard.assets.GetAsset(request)
                trailing: Any = absent.value.trailing_metadata()
                seen = dict(trailing or ()).get("x-cache") == "miss"
        assert seen


@pytest.fixture(scope="module", params=["on", "read-public", "off"])
def house(request: pytest.FixtureRequest, run_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> House:
    """
    Where access control is off, the private asset is left from a time when it was on.
    """
    mode: str = request.param
    data = safetensors({"secret": tensor(0, 4, [1]), "__metadata__": {"for": "unreleased"}}, 4)
    sha256, absent = hashlib.sha256(data).hexdigest(), os.urandom(32).hex()
    kind = "plain" if mode == "off" else f"access {mode}"
    stack = run_servers.stack(kind, StackSettings(state=Path(), gateway_port=0, access=mode))
    found = House(stack, mode, data, f"assets/{sha256}", f"assets/{absent}")
    if mode == "off":
        columns = "sha256, state, size_bytes, media_type, private, create_time, touch_time, revision"
        values = f"'{sha256}', 'LIVE', {len(data)}, 'application/octet-stream', true, now(), now(), 1"
        stack.postgres.sql(f"INSERT INTO assets ({columns}) VALUES ({values})", ASSETS_DATABASE)  # noqa: S608 - ours
    else:
        file = tmp_path_factory.mktemp("private") / "file"
        file.write_bytes(data)
        with modelyard.connect(stack.gateway, found.token("assets.write", READ)) as ann:
            assert ann.upload_file(file, private=True).private
    found.wait_for_the_cache()
    return found


def told(house: House, way: str, token: str | None, name: str) -> dict[str, str]:
    """
    What the RPCs tell of an asset: the answer, or the status, with its name taken out; and the trailers.
    """
    sha256 = name.removeprefix("assets/")
    size = len(house.data)
    header = assets_pb2.UploadRequest.Header(sha256=sha256, size_bytes=size, private=True)
    start = uploads_pb2.StartUploadRequest(sha256=sha256, size_bytes=size)
    static_file = delivery_pb2.StaticFile(name="static/x", asset=name)
    found: dict[str, str] = {}

    def note(what: str, call: Callable[[], Any], keep: Callable[[Any], object] = str) -> None:
        try:
            answer, trailing = call()
            said: object = keep(answer)
        except grpc.RpcError as error:
            problem = modelyard.explain(error)
            said, trailing = (problem.code, problem.reason, problem.message), error.trailing_metadata()
        told_by = {"x-cache", "cache-control"}
        rest = sorted((key, value if key in told_by else "") for key, value in trailing or () if key not in _PASSING)
        found[what] = repr((said, rest)).replace(sha256, "…")

    with modelyard.connect(house.target(way), token) as yard:

        def unary(stub: Any, request: Any) -> Callable[[], Any]:
            def call() -> Any:
                answer, made = stub.with_call(request)
                return answer, made.trailing_metadata()

            return call

        def download(**more: Any) -> Callable[[], Any]:
            def call() -> Any:
                stream = yard.assets.Download(assets_pb2.DownloadRequest(name=name, **more), timeout=20)
                return b"".join(message.chunk.data for message in stream), stream.trailing_metadata()

            return call

        # Several times, so that whatever is kept of it is what is answered.
        for again in range(3):
            note(f"GetAsset {again}", unary(yard.assets.GetAsset, assets_pb2.GetAssetRequest(name=name)))
            index = assets_pb2.GetTensorIndexRequest(name=name)
            note(f"GetTensorIndex {again}", unary(yard.assets.GetTensorIndex, index))
        note("Download", download())
        note("Download, a part", download(offset=1, limit=2))
        note("Download, a tensor", download(tensor="secret"))
        listing = unary(yard.assets.ListAssets, assets_pb2.ListAssetsRequest())
        note("ListAssets", listing, lambda answer: name in {each.name for each in answer.assets})
        missing = unary(yard.assets.FindMissing, assets_pb2.FindMissingRequest(sha256=[sha256], private=True))
        note("FindMissing", missing)
        note("StartUpload", unary(yard.uploads.StartUpload, start), lambda answer: answer.complete)
        note("SignUrl", unary(yard.delivery.SignUrl, delivery_pb2.SignUrlRequest(asset=name)), lambda answer: "signed")
        put = delivery_pb2.PutStaticFileRequest(static_file=static_file)
        note("PutStaticFile", unary(yard.delivery.PutStaticFile, put))

        def upload() -> Any:
            messages = iter([assets_pb2.UploadRequest(header=header)])
            answer, made = yard.assets.Upload.with_call(messages)
            return answer, made.trailing_metadata()

        note("Upload, the header alone", upload)
    return found


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_to_strangers_it_is_not_there(house: House, way: str) -> None:
    """
    Whoever has no token, or one without assets.read, is answered about a private asset as about one that is not there:
    by every RPC, to the letter, however often and after whoever has read it. Who may sign addresses may sign one for
    it.
    """
    callers: list[str | None] = [None]
    if house.mode != "off":
        # Whoever may read it asks first, so that what could be kept of it is.
        reader = house.token(READ)
        told(house, way, reader, house.name)
        callers += [house.token("cache.read"), house.token(*(set(public_scopes().values()) - {READ}))]
    for token in callers:
        private, absent = (told(house, way, token, name) for name in (house.name, house.absent))
        if house.mode != "off" and token is callers[-1]:
            assert "signed" in str(private.pop("SignUrl"))
            absent.pop("SignUrl")
        assert private == absent


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_to_readers_it_is_there(house: House, way: str) -> None:
    """
    Whoever has assets.read knows of it and has its bytes.
    """
    if house.mode == "off":
        pytest.skip("nobody has a token")
    with modelyard.connect(house.target(way), house.token(READ)) as ben:
        for _ in range(2):
            asset, call = ben.assets.GetAsset.with_call(assets_pb2.GetAssetRequest(name=house.name))
            assert asset.private
            assert ("cache-control", "private") in call.trailing_metadata()
        index = ben.assets.GetTensorIndex(assets_pb2.GetTensorIndexRequest(name=house.name))
        assert [each.name for each in index.tensors] == ["secret"]
        stream = ben.assets.Download(assets_pb2.DownloadRequest(name=house.name))
        assert b"".join(message.chunk.data for message in stream) == house.data
        assert house.name in {each.name for each in ben.assets.ListAssets(assets_pb2.ListAssetsRequest()).assets}


@pytest.mark.parametrize("way", ["gateway", "service"])
def test_changes_name_it_to_readers_only(house: House, way: str) -> None:
    """
    The stream of changes is closed to those who may not know of private assets.
    """
    request = changes_pb2.WatchChangesRequest(start_revision=1)
    callers: dict[str | None, grpc.StatusCode] = {None: grpc.StatusCode.UNAUTHENTICATED}
    if house.mode == "off":
        pytest.skip("whoever reaches the service may watch it")
    callers |= {house.token("cache.read"): grpc.StatusCode.PERMISSION_DENIED}
    for token, wanted in callers.items():
        with modelyard.connect(house.target(way), token) as yard, pytest.raises(grpc.RpcError) as refused:
            next(iter(yard.asset_changes.WatchChanges(request, timeout=10)))
        assert refused.value.code() is wanted


def test_its_bytes_have_no_address(house: House) -> None:
    """
    Over HTTP there is no address of it at the gateway, with whatever token.
    """
    tokens = [None] if house.mode == "off" else [None, house.token(READ)]
    for token in tokens:
        for path in (f"/{house.name}", f"/private/{house.name.removeprefix('assets/')}"):
            connection = http.client.HTTPConnection(house.stack.gateway, timeout=20)
            connection.request("GET", path, headers={} if token is None else {"authorization": f"Bearer {token}"})
            assert connection.getresponse().status in (401, 404)
            connection.close()


def test_none_are_taken_where_nobody_can_be_told_apart(house: House, tmp_path: Path) -> None:
    """
    While access control is off a private upload is refused, of small files and of large ones, and stores nothing.
    """
    if house.mode != "off":
        pytest.skip("tokens tell who may read")
    for size in (10, 9 << 20):
        file = tmp_path / str(size)
        file.write_bytes(os.urandom(size))
        with modelyard.connect(house.stack.gateway) as yard:
            with pytest.raises(grpc.RpcError) as refused:
                yard.upload_file(file, private=True)
            problem = modelyard.explain(refused.value)
            assert (problem.code, problem.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PRIVATE_NEEDS_ACCESS")
            assert not yard.upload_file(file).private
