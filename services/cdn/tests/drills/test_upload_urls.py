"""
Presigned URLs of parts that were changed, or have expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from services.cdn.tests.calls import digest, failure, some_bytes
from services.cdn.tests.conftest import Cdn, World
from services.cdn.tests.uploading import PART, Client, put

TAMPERED: dict[str, Callable[[str], str]] = {
    "another part": lambda url: url.replace("partNumber=2", "partNumber=1"),
    "another key": lambda url: url.replace("/staging/", "/assets/"),
    "a longer time": lambda url: url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
    "no signature": lambda url: url.partition("X-Amz-Signature=")[0].rstrip("&"),
    "another signature": lambda url: url.replace("X-Amz-Signature=", "X-Amz-Signature=0"),
}


async def test_a_tampered_address(cdn: Cdn) -> None:
    """
    S3 rejects a changed presigned URL, and the upload is unaffected.
    """
    client = Client(cdn, some_bytes(PART + 9))
    await client.start()
    first, second = [each.url for each in (await client.urls([1, 2])).urls]
    assert await asyncio.to_thread(put, first, client.data[:PART]) == 200
    for change, change_url in TAMPERED.items():
        changed = change_url(second)
        assert changed != second, change
        assert await asyncio.to_thread(put, changed, client.data[PART:]) in {400, 403}, change
        assert (await client.query()).committed_bytes == PART, change
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    assert failure(caught.value).reason == "UPLOAD_INCOMPLETE"
    assert not cdn.store.has(digest(client.data))
    assert await asyncio.to_thread(put, second, client.data[PART:]) == 200
    assert (await client.finish()).sha256 == digest(client.data)
    await client.left_nothing()


async def short_lived(world: World, cdn: Cdn, client: Client) -> str:
    """
    A URL of the second part of an upload that expires after a second; the service's minimum is a minute.
    """
    key = f"staging/{client.name.removeprefix('uploads/')}"
    found = world.client.list_multipart_uploads(Bucket=cdn.place.bucket, Prefix=key)["Uploads"]
    upload = {
        "Bucket": cdn.place.bucket,
        "Key": key,
        "UploadId": found[0]["UploadId"],
        "PartNumber": 2,
        "ContentLength": len(client.data) - PART,
    }
    return world.client.generate_presigned_url("upload_part", Params=upload, ExpiresIn=1)


async def test_an_address_whose_time_is_over(cdn: Cdn, world: World) -> None:
    """
    S3 rejects an expired presigned URL; QueryUpload reports the parts that are stored, and new URLs continue the
    upload.
    """
    client = Client(cdn, some_bytes(PART + 9))
    await client.start()
    first = (await client.urls([1])).urls[0].url
    assert await asyncio.to_thread(put, first, client.data[:PART]) == 200
    second = await short_lived(world, cdn, client)
    await asyncio.sleep(2)
    assert await asyncio.to_thread(put, second, client.data[PART:]) == 403
    assert (await client.query()).committed_bytes == PART
    with pytest.raises(grpc.RpcError) as caught:
        await client.finish()
    assert failure(caught.value).reason == "UPLOAD_INCOMPLETE"
    again = (await client.urls([2])).urls[0].url
    assert await asyncio.to_thread(put, again, client.data[PART:]) == 200
    assert (await client.finish()).sha256 == digest(client.data)
    await client.left_nothing()
