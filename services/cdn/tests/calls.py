"""
Helpers for calls to the asset service.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.error_details import explain

if TYPE_CHECKING:
    from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceAsyncStub as Stub
else:
    from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub as Stub

__all__ = [
    "MIB",
    "Failure",
    "Stub",
    "chunk",
    "chunks",
    "digest",
    "download",
    "failure",
    "header",
    "some_bytes",
    "stream",
    "upload",
]

MIB = 1024 * 1024


def some_bytes(size: int) -> bytes:
    """
    Random bytes, which no other test has uploaded.
    """
    return random.SystemRandom().randbytes(size)


def digest(data: bytes) -> str:
    """
    The sha256 of *data* in hexadecimal digits.
    """
    return hashlib.sha256(data).hexdigest()


def header(
    data: bytes = b"", *, sha256: str | None = None, size: int | None = None, media_type: str = ""
) -> pb.UploadRequest:
    """
    The first message of an upload of *data*, or one with other declarations.
    """
    declared = pb.UploadRequest.Header(
        sha256=digest(data) if sha256 is None else sha256,
        size_bytes=len(data) if size is None else size,
        media_type=media_type,
    )
    return pb.UploadRequest(header=declared)


def chunk(offset: int, data: bytes) -> pb.UploadRequest:
    """
    One chunk of an upload.
    """
    return pb.UploadRequest(chunk=pb.Chunk(offset=offset, data=data))


def chunks(data: bytes, size: int = MIB) -> list[pb.UploadRequest]:
    """
    All chunks of *data*.
    """
    return [chunk(offset, data[offset : offset + size]) for offset in range(0, len(data), size)]


async def upload(stub: Stub, data: bytes, media_type: str = "") -> pb.Asset:
    """
    Upload *data* in chunks of 1 MiB.
    """
    return await stub.Upload(stream(header(data, media_type=media_type), *chunks(data)), timeout=60)


async def stream(*messages: pb.UploadRequest) -> AsyncIterator[pb.UploadRequest]:
    """
    Yield *messages*.
    """
    for message in messages:
        yield message


async def download(stub: Stub, name: str, offset: int = 0, limit: int = 0) -> tuple[bytes, str]:
    """
    A range of an asset, whose chunks must be contiguous, and the digest in the trailer.
    """
    call = stub.Download(pb.DownloadRequest(name=name, offset=offset, limit=limit), timeout=60)
    found = bytearray()
    async for message in call:
        assert message.chunk.offset == offset + len(found)
        assert 0 < len(message.chunk.data) <= 4 * MIB
        found += message.chunk.data
    trailers = dict(await call.trailing_metadata() or ())
    return bytes(found), str(trailers["x-sha256"])


@dataclass(frozen=True)
class Failure:
    """
    The status of a failed call.
    """

    code: grpc.StatusCode
    reason: str
    fields: set[str]
    retry_after: float | None


def failure(error: grpc.RpcError) -> Failure:
    """
    The status of *error* with its decoded details.
    """
    problem = explain(error)
    fields = {violation.field for violation in problem.violations}
    return Failure(problem.code, problem.reason, fields, problem.retry_after)
