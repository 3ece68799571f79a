"""
Private assets: where their bytes are, how they become public, and what uploads report about it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import uploads_pb2
from modelyard.changes.v1 import changes_pb2
from services.cdn.tests.access_control import AccessControlled, access_controlled
from services.cdn.tests.calls import chunk, digest, download, header, some_bytes, stream, upload
from services.cdn.tests.conftest import World


@pytest.fixture(scope="module")
async def guarded(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AccessControlled]:
    """
    A service where everybody may read public assets.
    """
    async with access_controlled(world, tmp_path_factory.mktemp("guarded")) as found:
        yield found


def privately(data: bytes, media_type: str = "") -> list[pb.UploadRequest]:
    """
    The messages of a private upload.
    """
    declared = pb.UploadRequest.Header(sha256=digest(data), size_bytes=len(data), private=True, media_type=media_type)
    return [pb.UploadRequest(header=declared), chunk(0, data)]


async def test_changes_are_told(guarded: AccessControlled) -> None:
    """
    The change stream reports its epoch first, and when an asset is stored, published and deleted; GetAsset reports the
    revision that it reflects.
    """
    data = some_bytes(10)
    async with guarded.as_("ann", "assets.read", "assets.write", "admin") as ann:
        call = ann.assets.GetAsset(pb.GetAssetRequest(name=(await upload(ann.assets, some_bytes(5))).name))
        await call
        start = int(dict(await call.trailing_metadata())["x-revision"]) + 1
        private = await ann.assets.Upload(stream(*privately(data)))
        assert private.private
        public = await upload(ann.assets, data)
        assert not public.private
        await ann.assets.DeleteAsset(pb.DeleteAssetRequest(name=public.name))
        request = changes_pb2.WatchChangesRequest(start_revision=start, resource_prefix=public.name)
        kinds: list[int] = []
        epoch = ""
        watch = ann.asset_changes.WatchChanges(request, timeout=10)
        async for event in watch:
            epoch = epoch or event.heartbeat.epoch
            assert epoch
            kinds += [change.kind for change in event.revision.changes]
            if len(kinds) == 3:
                break
        watch.cancel()
    change = changes_pb2.Change
    assert kinds == [change.KIND_CREATED, change.KIND_UPDATED, change.KIND_DELETED]


async def test_private_bytes(guarded: AccessControlled) -> None:
    """
    Private bytes are not under the public key until they are uploaded publicly, which requires the bytes: digest and
    size are not enough. The private object remains, for presigned URLs in use.
    """
    data, store = some_bytes(20), guarded.cdn.store
    sha256 = digest(data)
    async with guarded.as_("ann") as ann:
        await ann.assets.Upload(stream(*privately(data)))
        assert not store.has(sha256)
        assert (await download(ann.assets, f"assets/{sha256}"))[0] == data
        with pytest.raises(grpc.RpcError):
            await ann.assets.Upload(stream(header(data)))
        started = uploads_pb2.StartUploadRequest(sha256=sha256, size_bytes=20)
        assert not (await ann.uploads.StartUpload(started)).complete
        assert not store.has(sha256)
        assert (await ann.assets.GetAsset(pb.GetAssetRequest(name=f"assets/{sha256}"))).private
        assert not (await ann.assets.Upload(stream(header(data), chunk(0, data)))).private
        assert store.has(sha256)
        assert store.has(sha256, private=True)
        assert (await download(ann.assets, f"assets/{sha256}"))[0] == data


async def test_what_is_public_stays_so_and_says_so(guarded: AccessControlled) -> None:
    """
    Public bytes stay public when they are pushed as private, and the response says so, for every way to push.
    """
    data = some_bytes(20)
    sha256 = digest(data)
    async with guarded.as_("ann") as ann:
        await upload(ann.assets, data)
        hidden = some_bytes(5)
        await ann.assets.Upload(stream(*privately(hidden)))
        assert not (await ann.assets.Upload(stream(*privately(data)[:1]))).private
        started = await ann.uploads.StartUpload(
            uploads_pb2.StartUploadRequest(sha256=sha256, size_bytes=20, private=True)
        )
        assert started.complete
        finished = await ann.uploads.FinishUpload(uploads_pb2.FinishUploadRequest(name=started.name))
        assert not finished.private
        asked = [sha256, digest(hidden), digest(b"never stored")]
        found = await ann.assets.FindMissing(pb.FindMissingRequest(sha256=asked, private=True))
        assert (list(found.sha256), list(found.public)) == ([asked[2]], [sha256])
        assert not (await ann.assets.FindMissing(pb.FindMissingRequest(sha256=asked))).public


async def test_private_text_has_no_variants(guarded: AccessControlled) -> None:
    """
    Private text has no compressed variants, which could not be served; it gets them when it becomes public.
    """
    data = b"a text that repeats itself, " * 100 + some_bytes(16).hex().encode()
    async with guarded.as_("ann") as ann:
        assert not (await ann.assets.Upload(stream(*privately(data, "text/plain")))).content_encodings
        for encoding in ("gzip", "zstd"):
            assert not guarded.cdn.store.keys(f"{encoding}/private/{digest(data)}")
        assert list((await upload(ann.assets, data, "text/plain")).content_encodings) == ["gzip", "zstd"]


async def test_no_shared_cache_keeps_it(guarded: AccessControlled) -> None:
    """
    Objects of private assets have Cache-Control: private, and those of public ones allow shared caches.
    """
    data, client, bucket = some_bytes(20), guarded.cdn.store.client, guarded.cdn.store.bucket
    async with guarded.as_("ann") as ann:
        await ann.assets.Upload(stream(*privately(data)))
        await upload(ann.assets, data)
    for key, who in ((f"private/{digest(data)}", "private"), (f"assets/{digest(data)}", "public")):
        found = client.head_object(Bucket=bucket, Key=key)
        assert found["CacheControl"] == f"{who}, max-age=31536000, immutable"
