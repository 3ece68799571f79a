"""
Calls of the other services with the caller's own token. The only module that opens channels.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import services
from modelyard.error_details import explain
from services.chassis.clients.channels import Peer
from services.chassis.clients.outgoing import outgoing
from services.chassis.serving.tls import Identity

R = TypeVar("R", bound=Message)

_REVISION: Final = "x-revision"
_MIN_REVISION: Final = "x-min-revision"
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.keepalive_time_ms", 300_000),
    # By default, gRPC backs off for up to two minutes before it reconnects.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
]


class Suite:
    """
    The registry, the cache and the asset service.

    Reads that the contracts let be cached go to the cache, and to their origin while it is unavailable. The newest
    revision that this process has seen of each origin goes along with each read: a client that comes here again reads
    its own writes. One that an origin no longer has is forgotten.

    Args:
        registry, cache, cdn: host:port of each worker. Without a cache every read goes to its origin.
        identity: TLS identity of this service; None for plaintext.
        timeout: of a call, in seconds.
    """

    def __init__(
        self,
        registry: Sequence[str],
        cache: Sequence[str],
        cdn: Sequence[str],
        identity: Identity | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._workers = {
            "registry": _Workers(registry, identity),
            "cache": _Workers(cache, identity),
            "cdn": _Workers(cdn, identity),
        }
        self._timeout = timeout
        self._reads = _cached_paths()
        self._revisions: dict[str, int] = {}

    async def call(self, path: str, request: Message, answer: type[R], token: str = "", *, fresh: bool = False) -> R:
        """
        Call an RPC with one request and one response.

        Args:
            path: "/modelyard.registry.v1.ModelService/GetModel".
            request: its request.
            answer: the class of its response.
            token: the caller's; empty for none.
            fresh: read from the origin, for a decision about a write.

        Raises:
            grpc.aio.AioRpcError: as the service answered.
        """
        origin = _origin(path)
        read = path in self._reads
        if read and not fresh and len(self._workers["cache"]):
            try:
                return await self._call("cache", origin, path, request, answer, token, read=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
        return await self._call(origin, origin, path, request, answer, token, read=read)

    async def stream(self, path: str, request: Message, answer: type[R], token: str = "") -> AsyncGenerator[R, None]:
        """
        Call an RPC with one request and a stream of responses.

        Raises:
            grpc.aio.AioRpcError: as the service answered.
        """
        peer = self._workers[_origin(path)].next()
        with outgoing(path) as headers:
            call = _made(peer, _unary_stream, path, answer)(request, metadata=(*_bearer(token), *headers))
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def ping(self) -> None:
        """
        Raises:
            TimeoutError: no worker of the registry accepts connections.
        """
        async with asyncio.timeout(1.0):
            await self._workers["registry"].next().channel().channel_ready()

    async def close(self) -> None:
        """
        Close the connections.
        """
        await asyncio.gather(*(workers.close() for workers in self._workers.values()))

    async def _call(
        self, service: str, origin: str, path: str, request: Message, answer: type[R], token: str, *, read: bool
    ) -> R:
        workers = self._workers[service]
        tries, forgot = len(workers), False
        while True:
            metadata = _bearer(token)
            if read and (seen := self._revisions.get(origin)):
                metadata = (*metadata, (_MIN_REVISION, str(seen)))
            tries -= 1
            try:
                with outgoing(path) as headers:
                    call = _made(workers.next(), _unary_unary, path, answer)(
                        request, metadata=(*metadata, *headers), timeout=self._timeout
                    )
                    response: R = await call
            except grpc.aio.AioRpcError as error:
                # Only reads may be repeated: a write may have been done.
                if not read:
                    raise
                if error.code() is grpc.StatusCode.UNAVAILABLE and tries > 0:
                    continue
                if forgot or not self._forgets(origin, error):
                    raise
                forgot = True
                continue
            for key, value in await call.trailing_metadata():
                if key == _REVISION and str(value).isdecimal():
                    self._revisions[origin] = max(self._revisions.get(origin, 0), int(value))
            return response

    def _forgets(self, origin: str, error: grpc.aio.AioRpcError) -> bool:
        """
        Whether the origin no longer has the revision that was asked for, which is then forgotten: its database was
        restored from a backup, or lost writes in a failover. All callers share it, so that no caller can mend it.
        """
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            return False
        problem = explain(error)
        newest = (problem.metadata or {}).get("revision", "")
        if problem.reason != "REVISION_NOT_REACHED" or not newest.isdecimal():
            return False
        self._revisions[origin] = min(self._revisions.get(origin, 0), int(newest))
        return True


class _Workers:
    def __init__(self, targets: Sequence[str], identity: Identity | None) -> None:
        self._peers = [Peer(target, identity, _OPTIONS) for target in targets]
        self._turns = itertools.cycle(self._peers)

    def __len__(self) -> int:
        return len(self._peers)

    def next(self) -> Peer:
        return next(self._turns)

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers))


def _origin(path: str) -> str:
    return path.split(".", 2)[1]


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def _cached_paths() -> frozenset[str]:
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in services()
        for method in service.methods
        if method.GetOptions().HasExtension(policy_pb2.policy)
    )


def _made(peer: Peer, make: Callable[..., Any], path: str, answer: Any) -> Any:
    return peer.made(make, path, answer)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _unary_unary(channel: grpc.aio.Channel, path: str, answer: type[Message]) -> Any:
    return channel.unary_unary(path, request_serializer=_serialized, response_deserializer=answer.FromString)


def _unary_stream(channel: grpc.aio.Channel, path: str, answer: type[Message]) -> Any:
    return channel.unary_stream(path, request_serializer=_serialized, response_deserializer=answer.FromString)
