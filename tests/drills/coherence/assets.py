"""
Writes to the asset service: assets that are created and deleted, and names under static/ that refer to them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc, delivery_pb2, delivery_pb2_grpc
from services.cdn.tests.model_files import safetensors, tensor
from tests.drills.coherence.history import History
from tests.drills.coherence.writers import Origin

_FILES = tuple(safetensors({"w": tensor(0, 4 * size, [size])}, 4 * size) for size in (1, 2))
#: The first exists throughout, the second is created and deleted repeatedly.
ASSETS = [f"assets/{hashlib.sha256(data).hexdigest()}" for data in _FILES]
STATIC = ["static/there.bin", "static/sometimes.bin"]


class Assets(Origin):
    """
    The asset service.
    """

    def __init__(self, channel: grpc.aio.Channel, history: History, dice: random.Random) -> None:
        super().__init__(channel, history, dice)
        # The stubs' types are of the blocking client.
        self.assets: Any = assets_pb2_grpc.AssetServiceStub(channel)
        self.delivery: Any = delivery_pb2_grpc.DeliveryServiceStub(channel)
        self._existing: set[str] = set()

    async def prepare(self) -> None:
        """
        Create what exists before the first read.
        """
        await self._upload(0)
        await self.put_file()

    async def upload_or_delete(self) -> None:
        name = ASSETS[1]
        if name in self._existing:
            await self.do(self.assets.DeleteAsset(assets_pb2.DeleteAssetRequest(name=name)))
            self._existing.discard(name)
        else:
            await self._upload(1)
            self._existing.add(name)

    async def put_file(self) -> None:
        await self._put(STATIC[0])

    async def put_or_delete_file(self) -> None:
        name = STATIC[1]
        if name in self._existing:
            await self.do(self.delivery.DeleteStaticFile(delivery_pb2.DeleteStaticFileRequest(name=name)))
            self._existing.discard(name)
        else:
            await self._put(name)
            self._existing.add(name)

    async def _put(self, name: str) -> None:
        content = delivery_pb2.StaticFile(
            name=name, asset=ASSETS[0], cache_control=f"public, max-age={next(self.numbers)}"
        )
        await self.do(self.delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=content)))

    async def _upload(self, number: int) -> None:
        data = _FILES[number]

        async def parts() -> AsyncIterator[assets_pb2.UploadRequest]:
            sha256 = ASSETS[number].partition("/")[2]
            header = assets_pb2.UploadRequest.Header(sha256=sha256, size_bytes=len(data))
            yield assets_pb2.UploadRequest(header=header)
            yield assets_pb2.UploadRequest(chunk=assets_pb2.Chunk(offset=0, data=data))

        await self.do(self.assets.Upload(parts()))


WRITES: dict[str, Callable[[Assets], Awaitable[None]]] = {
    "upload or delete": Assets.upload_or_delete,
    "put file": Assets.put_file,
    "put or delete file": Assets.put_or_delete_file,
}
