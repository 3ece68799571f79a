"""
GetAsset, ListAssets and FindMissing.
"""

from __future__ import annotations

import base64

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import Stub, digest, failure, some_bytes, upload
from services.cdn.tests.conftest import Cdn

NOWHERE = digest(b"nobody uploads this")


async def test_get(stub: Stub) -> None:
    """
    GetAsset returns what Upload returned.
    """
    asset = await upload(stub, some_bytes(5), "application/json")
    assert await stub.GetAsset(pb.GetAssetRequest(name=asset.name)) == asset


async def test_get_what_is_not_there(stub: Stub) -> None:
    """
    An asset that is not stored is NOT_FOUND.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await stub.GetAsset(pb.GetAssetRequest(name=f"assets/{NOWHERE}"))
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "assets/",
        NOWHERE,
        f"assets/{NOWHERE.upper()}",
        f"assets/{NOWHERE}/",
        f"/assets/{NOWHERE}",
        "assets/..",
        "assets/\0",
    ],
)
async def test_get_malformed(stub: Stub, name: str) -> None:
    """
    A malformed name is INVALID_ARGUMENT.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await stub.GetAsset(pb.GetAssetRequest(name=name))
    found = failure(caught.value)
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, {"name"})


async def test_list_in_pages(own_place: Cdn) -> None:
    """
    Pages contain every asset once, ordered by name, with the same fields as GetAsset; other objects in the bucket are
    not listed.
    """
    assets = [await upload(own_place.stub, some_bytes(size), "text/plain") for size in range(1, 8)]
    for key in ("assets/README", f"assets/{NOWHERE}.part", "assets/zzz", f"other/{NOWHERE}"):
        own_place.store.client.put_object(Bucket=own_place.store.bucket, Key=key, Body=b"x")
    for page_size in (0, 1, 3, 7, 100, 2_000_000_000):
        found: list[pb.Asset] = []
        token = ""
        while True:
            page = await own_place.stub.ListAssets(pb.ListAssetsRequest(page_size=page_size, page_token=token))
            assert len(page.assets) <= (page_size or 50)
            found.extend(page.assets)
            token = page.next_page_token
            if not token:
                break
        assert found == sorted(assets, key=lambda asset: asset.name)


async def test_list_malformed(stub: Stub) -> None:
    """
    A negative page size or a page token of another method is INVALID_ARGUMENT.
    """
    for size in range(2):
        await upload(stub, some_bytes(10 + size))
    token = (await stub.ListAssets(pb.ListAssetsRequest(page_size=1))).next_page_token
    assert token
    made_up = base64.urlsafe_b64encode(bytes(40)).decode()
    for request, fields in [
        (pb.ListAssetsRequest(page_size=-1), {"page_size"}),
        (pb.ListAssetsRequest(page_token="x"), {"page_token"}),
        (pb.ListAssetsRequest(page_token="ÄÖ"), {"page_token"}),
        (pb.ListAssetsRequest(page_token=made_up), {"page_token"}),
        (pb.ListAssetsRequest(page_token=token[:-2]), {"page_token"}),
        (pb.ListAssetsRequest(page_token=token + "AAAA"), {"page_token"}),
        (pb.ListAssetsRequest(page_token=token, owner="static/a"), {"page_token"}),
        (pb.ListAssetsRequest(page_size=-1, page_token="a" * 3_000_000), {"page_size", "page_token"}),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            await stub.ListAssets(request)
        found = failure(caught.value)
        assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


async def test_find_missing(stub: Stub) -> None:
    """
    FindMissing returns the digests that are not stored, without duplicates and in the order of the request.
    """
    stored = [(await upload(stub, some_bytes(4))).sha256 for _ in range(3)]
    missing = [digest(some_bytes(9)) for _ in range(300)]
    asked = [*missing[100:], *stored, *missing, *stored]
    answer = await stub.FindMissing(pb.FindMissingRequest(sha256=asked))
    assert list(answer.sha256) == [*missing[100:], *missing[:100]]


async def test_find_missing_malformed(stub: Stub) -> None:
    """
    A malformed digest, no digest, and too many digests are INVALID_ARGUMENT.
    """
    for digests, fields in [
        ([], {"sha256"}),
        ([NOWHERE] * 10_001, {"sha256"}),
        ([NOWHERE, "x", NOWHERE.upper(), ""], {"sha256[1]", "sha256[2]", "sha256[3]"}),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            await stub.FindMissing(pb.FindMissingRequest(sha256=digests))
        found = failure(caught.value)
        assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)
