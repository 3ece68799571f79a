"""
Calls of the other services over a real channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelyard.registry.v1 import models_pb2
from services.doors.store.suite import Suite

GET = "/modelyard.registry.v1.ModelService/GetModel"
UPDATE = "/modelyard.registry.v1.ModelService/UpdateModel"


class Registry(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it takes no arguments when it runs
    """
    Answers every call with an empty message, unless the caller has seen a revision that there is not.

    Attributes:
        newest: its revision.
        step: what is added to it with each call.
        calls: names of the RPCs that were called.
    """

    def __init__(self) -> None:
        self.newest = self.step = 0
        self.calls: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.calls.append(handler_call_details.method.rpartition("/")[2])
        self.newest += self.step
        wanted = dict(handler_call_details.invocation_metadata).get("x-min-revision", "0")

        async def answer(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            if int(wanted) > self.newest:
                info = error_details_pb2.ErrorInfo(
                    reason="REVISION_NOT_REACHED", metadata={"revision": str(self.newest)}
                )
                status = status_pb2.Status()
                status.details.add().Pack(info)
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "set back")
            context.set_trailing_metadata((("x-revision", str(self.newest)),))
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.asynccontextmanager
async def serving(registry: Registry) -> AsyncGenerator[Suite, None]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((registry,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    suite = Suite([f"127.0.0.1:{port}"], [], ["127.0.0.1:1"])
    try:
        yield suite
    finally:
        await suite.close()
        await server.stop(None)


async def test_reads_go_on_after_a_failover_that_lost_writes() -> None:
    """
    A revision that the registry no longer has is forgotten: the read that meets it is asked once more, for the newest
    that there is, and later ones ask for that.
    """
    registry = Registry()
    async with serving(registry) as suite:
        registry.newest = 7
        await suite.call(UPDATE, models_pb2.Model(), models_pb2.Model)
        await suite.call(GET, models_pb2.Model(), models_pb2.Model)
        registry.newest = 5
        registry.calls.clear()
        for _ in range(2):
            await suite.call(GET, models_pb2.Model(), models_pb2.Model)
        assert registry.calls == ["GetModel"] * 3
        registry.newest = 4
        await suite.call(GET, models_pb2.Model(), models_pb2.Model)


async def test_a_registry_that_never_reaches_a_revision_is_asked_twice() -> None:
    """
    A registry that is set back again and again gets two calls, and the error is passed on.
    """
    registry = Registry()
    async with serving(registry) as suite:
        registry.newest = 7
        await suite.call(GET, models_pb2.Model(), models_pb2.Model)
        registry.calls.clear()
        registry.step = -1
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await suite.call(GET, models_pb2.Model(), models_pb2.Model)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert registry.calls == ["GetModel"] * 2
