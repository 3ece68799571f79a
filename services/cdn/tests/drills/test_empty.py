"""
Files of zero bytes.
"""

from __future__ import annotations

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import digest, download, failure
from services.cdn.tests.conftest import Cdn
from services.cdn.tests.uploading import Client


async def test_there_are_no_addresses_for_nothing(own_place: Cdn) -> None:
    """
    A file of zero bytes has no parts, so CreateUploadUrls is INVALID_ARGUMENT; FinishUpload works without any.
    """
    client = Client(own_place, b"")
    assert (await client.start()).committed_bytes == 0
    with pytest.raises(grpc.RpcError) as caught:
        await client.urls([1])
    found = failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, {"part_numbers[0]"})
    asset = await client.finish()
    assert (asset.sha256, asset.size_bytes, asset.format) == (digest(b""), 0, pb.Asset.FORMAT_UNSPECIFIED)
    assert await download(own_place.stub, asset.name) == (b"", asset.sha256)
    assert await client.finish() == asset
    await client.left_nothing()
