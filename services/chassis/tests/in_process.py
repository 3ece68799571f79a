"""
Handlers behind the standard interceptors, on a real server and a real channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.chassis.access.callers import Proxies
from services.chassis.hosts.grpcio import Entrance
from services.chassis.interceptors import standard
from services.chassis.interceptors.metrics import measured
from services.chassis.interceptors.status import DETAILS
from services.chassis.observability.call_recorder import Recorders
from services.chassis.observability.metrics import CallMetrics
from services.chassis.serving.calls import Handler, Interceptor, Method, wrap_handler

SERVICE = "test.Yard"
_MOST = 4 << 20  # of a message

# Handlers without serializers take and give bytes.
unary = grpc.unary_unary_rpc_method_handler
server_stream = grpc.unary_stream_rpc_method_handler
client_stream = grpc.stream_unary_rpc_method_handler
bidi = grpc.stream_stream_rpc_method_handler


class Registrar:
    """
    Takes handlers as a server does, from generated adders too, wraps and measures them.
    """

    def __init__(self, interceptors: Sequence[Interceptor], calls: CallMetrics, recorders: Recorders) -> None:
        self._calls = calls
        self._interceptors = interceptors
        self._recorders = recorders
        self.handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """
        Adders give the same handlers once more by name.
        """

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """
        Wrap each.
        """
        for name, handler in handlers.items():
            method = Method.of(service, name, handler)
            self._recorders.of(method)
            wrapped = wrap_handler(handler, method, self._interceptors)
            self.handlers[method.path] = measured(wrapped, self._calls.of(method))


@asynccontextmanager
async def wired(
    *adders: Callable[[Any], None],
    interceptors: Sequence[Interceptor] | None = None,
    calls: CallMetrics | None = None,
    slow: float = 0.5,
    gateways: str = "127.0.0.0/8",
    **handlers: Any,
) -> AsyncIterator[Any]:
    """
    A channel to a server with *handlers* as the methods of test.Yard, and with what *adders* add.

    (Any: the stubs of grpc insist on serializers, which are optional and left out here.)
    """
    server = grpc.aio.server(options=[("grpc.max_send_message_length", _MOST)])
    calls = CallMetrics() if calls is None else calls
    recorders = Recorders(calls, slow, Proxies((ip_network(gateways),)))
    registrar = Registrar(standard() if interceptors is None else interceptors, calls, recorders)
    registrar.add_registered_method_handlers(SERVICE, handlers)
    for adder in adders:
        adder(registrar)
    server.add_generic_rpc_handlers((Entrance(registrar.handlers, _MOST, recorders),))
    port = server.add_insecure_port("127.0.0.1:0")
    before = asyncio.all_tasks()
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)
        # A client receives its answer before the interceptors have counted and logged the call. grpcio's own loops do
        # not end while another server of the same test runs.
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if calls_left := {task for task in left if not _is_server_loop(task)}:
            await asyncio.wait(calls_left, timeout=5)


def _is_server_loop(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "").startswith("AioServer.")


def path(name: str) -> str:
    """
    The path of a method of test.Yard.
    """
    return f"/{SERVICE}/{name}"


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """
    The error with which *call* ends.
    """
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


def trailer(error: grpc.aio.AioRpcError, key: str) -> Any:
    """
    The value of *key* in the trailing metadata.
    """
    metadata: Any = error.trailing_metadata()
    return dict(list(metadata)).get(key)


async def eventually(condition: Callable[[], object]) -> None:
    """
    Wait until *condition* holds; fail after five seconds.
    """
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """
    The google.rpc details of *error* by the name of their type.
    """
    status = status_pb2.Status.FromString(trailer(error, DETAILS))
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(found[name])
    return found
