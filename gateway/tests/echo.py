"""
A service behind a gateway that answers everything, and a client that says how a call ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from gateway.tests import harness


class Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it has arguments for the type checker alone
    """
    A service that answers everything, and keeps what it was told about the callers.

    Args:
        seconds: that an answer takes.
    """

    def __init__(self, seconds: float = 0) -> None:
        self.told: list[dict[str, str]] = []
        self.asked = 0
        self._seconds = seconds

    @contextmanager
    def served(self) -> Iterator[int]:
        """
        Serve it: the port.
        """
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((self,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()

    def service(self, details: Any) -> Any:
        """
        Health is well; any other call is remembered.
        """

        def answer(_request: bytes, _context: Any) -> bytes:
            if details.method.startswith("/grpc.health."):
                # By clients, and not by the gateway itself.
                self.asked += not dict(details.invocation_metadata).get("user-agent", "").startswith("Envoy")
                well: bytes = health_pb2.HealthCheckResponse(status=1).SerializeToString()
                return well
            self.told.append(dict(details.invocation_metadata))
            time.sleep(self._seconds)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def call(
    edge: harness.Edge, path: str, token: str | None, channel: grpc.Channel | None = None, **metadata: str
) -> tuple[grpc.StatusCode, str]:
    """
    How an empty request ends: the code, and the reason if the gateway gives one.

    Args:
        edge: the gateway.
        path: of the RPC.
        token: the authorization; None sends none.
        channel: an open one; by default each call opens one of its own.
    """
    if channel is None:
        with edge.connect_grpc() as own:
            return call(edge, path, token, own, **metadata)
    sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    if token is not None:
        sent.append(("authorization", token))
    ask: Any = channel.unary_unary(path)  # type: ignore[call-arg]  # bytes need no serializers
    try:
        ask(b"", metadata=sent, timeout=20, wait_for_ready=True)
    except grpc.RpcError as error:
        trailing: Any = error.trailing_metadata()
        found = dict(trailing).get("grpc-status-details-bin", b"")
        status, info = status_pb2.Status.FromString(found), error_details_pb2.ErrorInfo()
        if status.details:
            status.details[0].Unpack(info)
        return error.code(), info.reason
    return grpc.StatusCode.OK, ""
