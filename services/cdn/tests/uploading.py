"""
A client of resumable uploads.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.error import HTTPError

import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1 import uploads_pb2 as pb
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceStub
from services.cdn.tests.calls import MIB, digest
from services.cdn.tests.conftest import Cdn

__all__ = ["PART", "Client", "put"]

PART = 8 * MIB


class Client:
    """
    One resumable upload.
    """

    def __init__(self, cdn: Cdn, data: bytes, **more: object) -> None:
        self.cdn, self.data = cdn, data
        self.stub = UploadServiceStub(cdn.channel)
        self.name = ""
        self._request = pb.StartUploadRequest(sha256=digest(data), size_bytes=len(data), **more)  # type: ignore[arg-type]

    def on(self, cdn: Cdn) -> Client:
        """
        The same upload at another process.
        """
        other = Client(cdn, self.data)
        other.name = self.name
        return other

    def continue_at(self, cdn: Cdn) -> None:
        """
        From now on, call another process.
        """
        self.cdn, self.stub = cdn, UploadServiceStub(cdn.channel)

    async def start(self) -> pb.Upload:
        found = await self.stub.StartUpload(self._request, timeout=20)
        self.name = found.name
        return found

    async def query(self) -> pb.Upload:
        return await self.stub.QueryUpload(pb.QueryUploadRequest(name=self.name), timeout=20)

    async def is_free(self) -> None:
        """
        Wait until no writer holds the lease.
        """
        async with asyncio.timeout(20):
            while (await self.query()).in_use:
                await asyncio.sleep(0.05)

    async def write(self, begin: int, end: int | None = None) -> pb.Upload:
        return await self.stub.WriteUpload(self.messages(begin, end), timeout=60)

    async def finish(self) -> assets_pb2.Asset:
        return await self.stub.FinishUpload(pb.FinishUploadRequest(name=self.name), timeout=60)

    async def urls(self, numbers: Sequence[int]) -> pb.CreateUploadUrlsResponse:
        return await self.stub.CreateUploadUrls(
            pb.CreateUploadUrlsRequest(name=self.name, part_numbers=numbers), timeout=20
        )

    async def has_begun(self, data: bytes) -> None:
        """
        Wait until the first message of a write was received.
        """
        while not self.cdn.store.open_uploads(f"assets/{digest(data)}"):
            await asyncio.sleep(0.05)

    async def stands_at(self, size: int) -> int:
        """
        Wait until at least *size* bytes are committed; returns how many.
        """
        async with asyncio.timeout(20):
            while (stands := (await self.query()).committed_bytes) < size:
                await asyncio.sleep(0.05)
        return stands

    async def left_nothing(self) -> None:
        """
        Fails unless the bucket soon contains nothing of it except the asset.
        """
        staging = f"staging/{self.name.removeprefix('uploads/')}"
        await self.cdn.store.no_open_uploads((staging, f"assets/{digest(self.data)}"))
        for _ in range(50):
            if not (left := self.cdn.store.keys(staging)):
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"{left} are still there")

    async def messages(
        self, begin: int, end: int | None = None, then: Callable[[], object] | None = None
    ) -> AsyncIterator[pb.WriteUploadRequest]:
        end = len(self.data) if end is None else end
        name = self.name
        for offset in range(begin, max(end, begin + 1), MIB):
            chunk = assets_pb2.Chunk(offset=offset, data=self.data[offset : min(offset + MIB, end)])
            yield pb.WriteUploadRequest(name=name, chunk=chunk)
            name = ""
        if then is not None:
            then()
            await asyncio.sleep(60)


def put(url: str, data: bytes) -> int:
    """
    PUT to a presigned URL; returns the status.
    """
    request = urllib.request.Request(url, data=data, method="PUT", headers={"content-type": ""})  # noqa: S310 - http
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return int(answer.status)
    except HTTPError as error:
        return error.code
