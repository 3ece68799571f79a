"""
Metadata of assets, through the gateway and the cache.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import grpc
import pytest

import modelyard
from embedded.stack import Stack
from modelyard.cdn.v1 import assets_pb2, delivery_pb2


def _read(yard: modelyard.Client, name: str) -> tuple[assets_pb2.Asset, str]:
    """
    GetAsset, and what answered it.
    """
    asset, call = yard.assets.GetAsset.with_call(assets_pb2.GetAssetRequest(name=name))
    trailing: dict[str, Any] = dict(call.trailing_metadata())
    return asset, trailing.get("x-cache", "none")


def _warm(yard: modelyard.Client, name: str) -> assets_pb2.Asset:
    """
    Read until the cache answers from its memory.
    """
    for _ in range(200):
        asset, how = _read(yard, name)
        if how == "near":
            return asset
        time.sleep(0.02)
    pytest.fail("it is never answered from memory")


def test_metadata_is_cached_and_true(stack: Stack, tmp_path: Any) -> None:
    """
    GetAsset is answered from the cache's memory; an asset that is deleted or stored again through one client is seen so
    by that client at once, and by others when the change has been told.
    """
    file = tmp_path / "bytes"
    file.write_bytes(os.urandom(100))
    name = f"assets/{hashlib.sha256(file.read_bytes()).hexdigest()}"
    with modelyard.connect(stack.gateway) as writer, modelyard.connect(stack.gateway) as reader:
        writer.upload_file(file)
        made = _warm(reader, name).revision
        assert _warm(writer, name).revision == made
        writer.assets.DeleteAsset(assets_pb2.DeleteAssetRequest(name=name))
        writer.upload_file(file)
        assert _read(writer, name)[0].revision > made
        for _ in range(100):
            if _read(reader, name)[0].revision > made:
                break
            time.sleep(0.02)
        else:
            pytest.fail("the other client is never told")
        writer.assets.DeleteAsset(assets_pb2.DeleteAssetRequest(name=name))
        with pytest.raises(grpc.RpcError) as caught:
            _read(writer, name)
        assert modelyard.explain(caught.value).reason == "ASSET_NOT_FOUND"


def test_static_files_are_cached_and_true(yard: modelyard.Client, tmp_path: Any) -> None:
    """
    GetStaticFile is answered from memory until the path points at something else.
    """
    assets = []
    for number in range(2):
        file = tmp_path / f"{number}.txt"
        file.write_bytes(os.urandom(50))
        assets.append(yard.upload_file(file).name)
    name = f"static/{os.urandom(4).hex()}.txt"
    for asset in assets:
        static_file = delivery_pb2.StaticFile(name=name, asset=asset)
        yard.delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=static_file))
        for _ in range(3):
            assert yard.delivery.GetStaticFile(delivery_pb2.GetStaticFileRequest(name=name)).asset == asset
