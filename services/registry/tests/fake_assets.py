"""
A fake asset service that tests control. It implements pins as in the contract; the end-to-end tests finalize against
the real service.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import assets_pb2_grpc
from services.chassis.errors import ModelyardError, NotFound, Unavailable
from services.chassis.interceptors.status import DETAILS, rich_status, status_code
from services.chassis.serving.context import Context


class Hold:
    """
    Calls that are held before they are executed.

    Args:
        times: how many are held; later ones pass.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.reached = asyncio.Event()
        self.over = asyncio.Event()


class FakeAssets(assets_pb2_grpc.AssetServiceServicer):
    """
    Answers for the assets in `sizes`.

    A request is executed even if its caller has disconnected, as in any server that has begun to commit.
    """

    def __init__(self) -> None:
        # Stored bytes by digest, and the digests that Pin does not find: they have just been collected.
        self.sizes: dict[str, int] = {}
        self.collected: set[str] = set()
        # The names of the assets that an owner pins.
        self.pins: dict[str, set[str]] = {}
        self.calls: list[str] = []
        self.down = False
        # How a method's calls fail: before they are executed, or afterwards.
        self.refuse: dict[str, ModelyardError] = {}
        self.lose_answers = False
        # Delays and loses calls and answers.
        self.chaos: random.Random | None = None
        self._holds: dict[str, Hold] = {}
        self._done: set[str] = set()
        self._working: set[asyncio.Task[int]] = set()

    def hold(self, method: str, times: int = 1) -> Hold:
        """
        Hold the next calls of a method until `Hold.over` is set.
        """
        self._holds[method] = Hold(times)
        return self._holds[method]

    def count(self, method: str) -> int:
        """
        How often a method was called.
        """
        return self.calls.count(method)

    async def idle(self) -> None:
        """
        Wait for the requests that are still being executed.
        """
        while self._working:
            await asyncio.wait(self._working)

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        return pb.FindMissingResponse(sha256=[each for each in request.sha256 if each not in self.sizes])

    async def GetAsset(self, request: pb.GetAssetRequest, context: Context) -> pb.Asset:
        assert context.time_remaining() is not None, "an outgoing call without a deadline"
        sha256 = request.name.removeprefix("assets/")
        return pb.Asset(name=request.name, sha256=sha256, size_bytes=self.sizes[sha256])

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.PinResponse:
        assert context.time_remaining() is not None, "an outgoing call without a deadline"
        return pb.PinResponse(pinned_count=await self._answer("Pin", request, context))

    async def Unpin(self, request: pb.UnpinRequest, context: Context) -> pb.UnpinResponse:
        assert context.time_remaining() is not None, "an outgoing call without a deadline"
        assert request.request_id, "unpinned without a request id"
        return pb.UnpinResponse(unpinned_count=await self._answer("Unpin", request, context))

    async def _answer(self, method: str, request: pb.PinRequest | pb.UnpinRequest, context: Context) -> int:
        self.calls.append(method)
        task = asyncio.create_task(self._do(method, request))
        self._working.add(task)
        task.add_done_callback(self._end)
        try:
            return await asyncio.shield(task)
        except ModelyardError as error:
            status = rich_status(error)
            context.set_trailing_metadata(((DETAILS, status.SerializeToString()),))
            await context.abort(status_code(error), status.message)
            raise AssertionError from error

    def _end(self, task: asyncio.Task[int]) -> None:
        self._working.discard(task)
        # The caller may have disconnected.
        if not task.cancelled():
            task.exception()

    async def _do(self, method: str, request: pb.PinRequest | pb.UnpinRequest) -> int:
        hold = self._holds.get(method)
        if hold is not None and hold.times > 0:
            hold.times -= 1
            hold.reached.set()
            await hold.over.wait()
        await self._suffer()
        if self.down:
            raise Unavailable("DOWN", "down")
        if method in self.refuse:
            raise self.refuse[method]
        count = self._pin(request) if isinstance(request, pb.PinRequest) else self._unpin(request)
        await self._suffer()
        if self.lose_answers:
            raise Unavailable("LOST", "executed, but the response is lost")
        return count

    async def _suffer(self) -> None:
        if self.chaos is not None:
            await asyncio.sleep(self.chaos.choice((0, 0, 0.001, 0.005, 0.02)))
            if self.chaos.random() < 0.1:
                raise Unavailable("CHAOS", "lost")

    def _pin(self, request: pb.PinRequest) -> int:
        for name in request.names:
            sha256 = name.removeprefix("assets/")
            if sha256 not in self.sizes or sha256 in self.collected:
                raise NotFound("ASSET_NOT_FOUND", name)
        mine = self.pins.setdefault(request.owner, set())
        before = len(mine)
        mine.update(request.names)
        return len(mine) - before

    def _unpin(self, request: pb.UnpinRequest) -> int:
        # A request is executed once, however late its retries arrive.
        if request.request_id in self._done:
            return 0
        self._done.add(request.request_id)
        return len(self.pins.pop(request.owner, ()))


@asynccontextmanager
async def serving(assets: FakeAssets) -> AsyncIterator[str]:
    """
    Serve it while the block runs; yields its host and port.
    """
    server = grpc.aio.server()
    assets_pb2_grpc.add_AssetServiceServicer_to_server(assets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def new_fake_assets() -> FakeAssets:
    """
    A fake asset service without assets.
    """
    return FakeAssets()  # type: ignore[abstract]  # nobody calls the rest
