"""
Format detection through the API: invalid headers are rejected on every way in; tensors, warnings, variants.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import zstandard

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.tests.calls import MIB, Stub, chunks, digest, failure, header, some_bytes, upload
from services.cdn.tests.conftest import Cdn
from services.cdn.tests.model_files import framed, safetensors, tensor
from services.cdn.tests.uploading import PART, Client, put


async def _as_stream(cdn: Cdn, data: bytes) -> pb.Asset:
    return await upload(cdn.stub, data)


async def _resumable(cdn: Cdn, data: bytes) -> pb.Asset:
    client = Client(cdn, data)
    await client.start()
    try:
        # One call per part: grpc.aio loses the status when the server ends a stream that is still being sent.
        for place in range(0, len(data), PART):
            await client.write(place, min(place + PART, len(data)))
        return await client.finish()
    except grpc.RpcError:
        await _is_gone(client)
        raise


async def _direct(cdn: Cdn, data: bytes) -> pb.Asset:
    client = Client(cdn, data)
    await client.start()
    places = range(0, len(data), PART)
    urls = (await client.urls(range(1, len(places) + 1))).urls
    for url, place in zip(urls, places, strict=True):
        assert await asyncio.to_thread(put, url.url, data[place : place + PART]) == 200
    try:
        return await client.finish()
    except grpc.RpcError:
        await _is_gone(client)
        raise


async def _is_gone(client: Client) -> None:
    """
    Fails unless an upload and its bytes are gone.
    """
    with pytest.raises(grpc.RpcError) as caught:
        await client.query()
    assert failure(caught.value).reason == "UPLOAD_NOT_FOUND"
    await client.left_nothing()


WAYS = {"Upload": _as_stream, "WriteUpload": _resumable, "direct": _direct}


def model(extra: bytes = b"") -> tuple[bytes, dict[str, bytes]]:
    """
    A new safetensors file with an empty tensor in it, and the bytes of its tensors.
    """
    parts = {"first": some_bytes(40), "none": b"", "last.weight": some_bytes(3 * MIB + 12)}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, data in parts.items():
        entries[name] = tensor(place, place + len(data), [len(data) // 4])
        place += len(data)
    return framed(json.dumps(entries).encode(), b"".join(parts.values()) + extra), parts


async def tensor_bytes(stub: Stub, name: str, of: str, offset: int = 0, limit: int = 0) -> bytes:
    """
    A range of a tensor, whose chunks must be contiguous.
    """
    call = stub.Download(pb.DownloadRequest(name=name, tensor=of, offset=offset, limit=limit), timeout=60)
    found = bytearray()
    async for message in call:
        assert message.chunk.offset == offset + len(found)
        found += message.chunk.data
    trailers = dict(await call.trailing_metadata() or ())
    assert trailers["x-sha256"] == digest(bytes(found))
    return bytes(found)


LIES = [*((way, 1) for way in WAYS), ("WriteUpload", PART), ("direct", PART)]


@pytest.mark.parametrize(("way", "extra"), LIES)
async def test_a_header_that_lies(cdn: Cdn, way: str, extra: int) -> None:
    """
    A safetensors file that is longer than its header says is rejected and leaves nothing, however it was uploaded.
    """
    data, _ = model(some_bytes(extra))
    with pytest.raises(grpc.RpcError) as caught:
        await WAYS[way](cdn, data)
    await refused(cdn, caught.value, data)


async def test_a_lie_is_refused_early(cdn: Cdn) -> None:
    """
    An invalid header is rejected with the first part, before the rest is sent.
    """
    data, _ = model(some_bytes(2 * PART))

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield header(data)
        for message in chunks(data[:PART]):
            yield message
        await asyncio.sleep(60)

    with pytest.raises(grpc.RpcError) as caught:
        await cdn.stub.Upload(messages(), timeout=30)
    await refused(cdn, caught.value, data)


async def refused(cdn: Cdn, error: grpc.RpcError, data: bytes) -> None:
    """
    Fails unless *error* is SAFETENSORS_INVALID and nothing is left of *data*.
    """
    found = failure(error)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SAFETENSORS_INVALID")
    with pytest.raises(grpc.RpcError) as caught:
        await cdn.stub.GetAsset(pb.GetAssetRequest(name=f"assets/{digest(data)}"))
    assert failure(caught.value).reason == "ASSET_NOT_FOUND"
    assert not cdn.store.has(digest(data))
    await cdn.store.no_open_uploads(f"assets/{digest(data)}")


@pytest.mark.parametrize("way", WAYS)
async def test_the_index_and_its_tensors(cdn: Cdn, way: str) -> None:
    """
    However a file was uploaded, its index says where each tensor is, and its bytes are there.
    """
    data, parts = model()
    asset = await WAYS[way](cdn, data)
    assert (asset.format, asset.parameter_count) == (pb.Asset.FORMAT_SAFETENSORS, sum(map(len, parts.values())) // 4)
    index = await cdn.stub.GetTensorIndex(pb.GetTensorIndexRequest(name=asset.name))
    assert dict(index.metadata) == {"format": "pt"}
    assert {each.name: data[each.offset : each.offset + each.size_bytes] for each in index.tensors} == parts
    assert index.parameter_count == asset.parameter_count
    for name, expected in parts.items():
        assert await tensor_bytes(cdn.stub, asset.name, name) == expected


async def test_parts_of_a_tensor(stub: Stub) -> None:
    """
    Offset and limit are relative to the tensor, and never reach into its neighbours.
    """
    data, parts = model()
    name, last = (await upload(stub, data)).name, parts["last.weight"]
    for offset, limit in ((0, 1), (5, 7), (len(last) - 3, 3), (len(last) - 3, 100), (MIB, 0), (len(last), 0)):
        expected = last[offset : offset + limit] if limit else last[offset:]
        assert await tensor_bytes(stub, name, "last.weight", offset, limit) == expected
    assert await tensor_bytes(stub, name, "first", 30, 1000) == parts["first"][30:]
    assert await tensor_bytes(stub, name, "none", 0, 5) == b""


@pytest.mark.parametrize(("of", "offset"), [("first", 41), ("none", 1), ("last.weight", 2**62)])
async def test_past_the_end_of_a_tensor(stub: Stub, of: str, offset: int) -> None:
    """
    An offset past a tensor's end is OUT_OF_RANGE, although the file is longer.
    """
    name = (await upload(stub, model()[0])).name
    with pytest.raises(grpc.RpcError) as caught:
        await tensor_bytes(stub, name, of, offset)
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET_PAST_END",
    )


@pytest.mark.parametrize("of", ["First", "firs", "__metadata__", "a" * 5000, "🦜\0"])
async def test_a_tensor_that_is_not_there(stub: Stub, of: str) -> None:
    """
    A tensor that is not in the index is NOT_FOUND.
    """
    name = (await upload(stub, model()[0])).name
    with pytest.raises(grpc.RpcError) as caught:
        await tensor_bytes(stub, name, of)
    assert (failure(caught.value).code, failure(caught.value).reason) == (
        grpc.StatusCode.NOT_FOUND,
        "TENSOR_NOT_FOUND",
    )


async def test_files_of_another_format(stub: Stub) -> None:
    """
    The index and tensors of a file of another format are FAILED_PRECONDITION, and of a missing one NOT_FOUND.
    """
    there = (await upload(stub, some_bytes(100))).name
    missing = f"assets/{digest(b'nobody sent this')}"
    answers = {there: (grpc.StatusCode.FAILED_PRECONDITION, "NOT_SAFETENSORS")}
    answers[missing] = (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")
    for name, expected in answers.items():
        with pytest.raises(grpc.RpcError) as caught:
            await stub.GetTensorIndex(pb.GetTensorIndexRequest(name=name))
        assert (failure(caught.value).code, failure(caught.value).reason) == expected
        with pytest.raises(grpc.RpcError) as caught:
            await tensor_bytes(stub, name, "first")
        assert (failure(caught.value).code, failure(caught.value).reason) == expected


async def index_pages(stub: Stub, name: str, size: int = 0) -> list[pb.TensorIndex]:
    """
    All pages of an index.
    """
    request = pb.GetTensorIndexRequest(name=name, page_size=size)
    pages = [await stub.GetTensorIndex(request)]
    while pages[-1].next_page_token:
        request.page_token = pages[-1].next_page_token
        pages.append(await stub.GetTensorIndex(request))
    return pages


def compact(content: dict[str, Any]) -> bytes:
    """
    A safetensors file of empty tensors, with the shortest header.
    """
    return framed(json.dumps(content, separators=(",", ":")).encode())


async def test_the_index_of_a_large_header(cdn: Cdn) -> None:
    """
    A client with gRPC's default message limit of 4 MiB gets 30,000 tensors in pages without choosing a page size.
    """
    names = [f"blocks.{number:06d}.{'attention.' * 10}weight" for number in range(30_000)]
    asset = await upload(cdn.stub, compact({name: tensor(0, 0, [0], "U8") for name in names}))
    async with grpc.aio.insecure_channel(cdn.target) as channel:
        pages = await index_pages(Stub(channel), asset.name)
    assert [each.name for page in pages for each in page.tensors] == names
    assert 1 < len(pages) < 5


async def test_the_index_of_large_metadata(cdn: Cdn) -> None:
    """
    Metadata is paged like tensors, and comes before them.
    """
    metadata = {f"part {number}": "x" * (1 << 20) for number in range(6)} | {"id": some_bytes(8).hex()}
    asset = await upload(cdn.stub, compact({"__metadata__": metadata, "only": tensor(0, 0, [0])}))
    async with grpc.aio.insecure_channel(cdn.target) as channel:
        pages = await index_pages(Stub(channel), asset.name)
    assert {key: text for page in pages for key, text in page.metadata.items()} == metadata
    assert [[each.name for each in page.tensors] for page in pages] == [[], [], ["only"]]


async def test_pages_of_an_index(stub: Stub) -> None:
    """
    A page has as many tensors as requested, and the totals of the asset; a page token is valid for its asset only.
    """
    content = {name: tensor(4 * place, 4 * place + 4, [1]) for place, name in enumerate("abcde")}
    assets = [
        await upload(stub, safetensors({"__metadata__": {"id": some_bytes(8).hex()}, **content}, 20)) for _ in "12"
    ]
    pages = await index_pages(stub, assets[0].name, 2)
    assert [[each.name for each in page.tensors] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert [page.parameter_count for page in pages] == [5, 5, 5]
    assert [len(page.metadata) for page in pages] == [1, 0, 0]
    for request, field in (
        (pb.GetTensorIndexRequest(name=assets[1].name, page_token=pages[0].next_page_token), "page_token"),
        (pb.GetTensorIndexRequest(name=assets[0].name, page_size=-1), "page_size"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await stub.GetTensorIndex(request)
        assert (failure(caught.value).code, failure(caught.value).fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            {field},
        )


async def test_an_empty_file_of_tensors(stub: Stub) -> None:
    """
    A safetensors file without tensors has an empty index.
    """
    data = safetensors({"__metadata__": {"id": some_bytes(8).hex()}}, 0)
    asset = await upload(stub, data)
    assert asset.format == pb.Asset.FORMAT_SAFETENSORS
    index = await stub.GetTensorIndex(pb.GetTensorIndexRequest(name=asset.name))
    assert (len(index.tensors), index.parameter_count) == (0, 0)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [100, PART + 100], ids=["small", "large"])
async def test_a_pickle_is_stored_with_a_verdict(cdn: Cdn, way: str, size: int) -> None:
    """
    A pickle is stored like any asset, with a verdict, the names that it calls and a warning, also if these are at the
    end of a large file; a harmless pickle has no warning.
    """
    cases: list[tuple[object, int]] = [(_Evil(), pb.Asset.VERDICT_DANGEROUS)]
    if size < PART:
        cases.append(({}, pb.Asset.VERDICT_SAFE))
    for thing, verdict in cases:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data/0", some_bytes(size))
            archive.writestr("model/data.pkl", pickle.dumps(thing, 2))
        asset = await WAYS[way](cdn, file.getvalue())
        assert (asset.format, asset.verdict) == (pb.Asset.FORMAT_PICKLE, verdict)
        evil = verdict == pb.Asset.VERDICT_DANGEROUS
        name = f"{os.system.__module__}.system"
        assert list(asset.loads) == ([name] if evil else [])
        assert list(asset.warnings) == ([f"loading it runs code of whoever made it: {name}"] if evil else [])
        assert await cdn.stub.GetAsset(pb.GetAssetRequest(name=asset.name)) == asset


@pytest.mark.parametrize("way", WAYS)
async def test_variants_of_text(cdn: Cdn, way: str) -> None:
    """
    Text is also stored compressed: the asset lists its encodings, and each variant has the original's type and decodes
    to it.
    """
    data = json.dumps({some_bytes(4).hex(): number for number in range(3000)}).encode()
    asset = await WAYS[way](cdn, data)
    assert asset.format == pb.Asset.FORMAT_TEXT
    assert list(asset.content_encodings) == ["gzip", "zstd"]
    decode: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstandard.decompress}
    client, bucket = cdn.store.client, cdn.store.bucket
    for encoding in asset.content_encodings:
        stored = client.get_object(Bucket=bucket, Key=f"{encoding}/{asset.name}")
        assert (stored["ContentEncoding"], stored["ContentType"]) == (encoding, asset.media_type)
        body = stored["Body"].read()
        assert len(body) < len(data)
        assert decode[encoding](body) == data
    # Servers omit the field or return it empty.
    assert not client.head_object(Bucket=bucket, Key=asset.name).get("ContentEncoding")


@pytest.mark.parametrize("way", WAYS)
async def test_noise_has_no_variants(cdn: Cdn, way: str) -> None:
    """
    Random bytes have no variants, neither in the asset nor in the bucket.
    """
    asset = await WAYS[way](cdn, some_bytes(100_000))
    assert not asset.content_encodings
    assert cdn.store.keys(f"gzip/{asset.name}") == cdn.store.keys(f"zstd/{asset.name}") == []
