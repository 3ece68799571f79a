"""
The services behind the cache, called with serialized requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from services.chassis.access import ServiceToken
from services.chassis.clients.channels import Peer
from services.chassis.clients.outgoing import outgoing
from services.chassis.interceptors.permissions import FOLLOWER, VISIBILITY
from services.chassis.serving.tls import Identity

Metadata = tuple[tuple[str, str | bytes], ...]

# Headers forwarded to the origin, besides the request id and the trace context.
_FORWARDED_HEADERS = {"authorization", "x-modelyard-subject", "x-modelyard-scopes"}
_DETAILS = "grpc-status-details-bin"
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.keepalive_time_ms", 300_000),
    # By default, gRPC backs off for up to two minutes before it reconnects.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer of the origin.

    Args:
        value: the serialized response; for a NOT_FOUND, its `google.rpc.Status`.
        trailing: its trailing metadata.
        revision: that it reflects; None when the origin does not tell.
        took: duration of the call in seconds.
        absence: the message of a NOT_FOUND; None for a response.
    """

    value: bytes
    trailing: Metadata
    revision: int | None
    took: float
    absence: str | None = None

    @property
    def private(self) -> bool:
        """
        Whether it is for this caller only: `cache-control: private` or `no-store` (RFC 9111, section 5.2.2).
        """
        directives = [str(value) for key, value in self.trailing if key == "cache-control"]
        return any("private" in value or "no-store" in value for value in directives)

    @property
    def visibility(self) -> str | None:
        """
        What it depends on beside the request: `x-visibility`.
        """
        return next((str(value) for key, value in self.trailing if key == VISIBILITY), None)


class Origin:
    """
    A service behind the cache; calls go to its workers in turn.

    Args:
        name: registry or cdn.
        targets: host:port of each worker.
        token: of the cache, for calls that it makes on its own behalf.
        identity: TLS identity of the cache; None for plaintext.
    """

    def __init__(
        self, name: str, targets: Sequence[str], token: ServiceToken, identity: Identity | None = None
    ) -> None:
        self.name = name
        self.token = token
        self._peers = [Peer(target, identity, _OPTIONS) for target in targets]
        self._next_peer = itertools.cycle(self._peers)

    def channel(self) -> grpc.aio.Channel:
        """
        The channel of the next worker.
        """
        return next(self._next_peer).channel()

    async def call(self, path: str, request: bytes, metadata: Metadata, minimum: int, timeout: float) -> Answer:
        """
        Call the origin.

        Args:
            path: of the RPC.
            request: serialized.
            metadata: the caller's; only the headers for the origin are forwarded.
            minimum: the revision that the answer must reflect.
            timeout: in seconds.

        Raises:
            grpc.aio.AioRpcError: as the origin answered, or UNAVAILABLE when no worker did. A NOT_FOUND with a revision
                is an answer.
        """
        forwarded = tuple((key, value) for key, value in metadata if key in _FORWARDED_HEADERS)
        # The origin tells a service that follows the policies what an answer depends on.
        forwarded = (*forwarded, *((FOLLOWER, token.removeprefix("Bearer ")) for _, token in self.token.metadata()))
        if minimum:
            forwarded = (*forwarded, ("x-min-revision", str(minimum)))
        for left in reversed(range(len(self._peers))):
            try:
                return await self._call_peer(next(self._next_peer), path, request, forwarded, timeout)
            except grpc.aio.AioRpcError as error:
                # Only reads pass here, so they may be retried on another worker.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not left:
                    raise
        raise AssertionError("an origin has at least one worker")

    async def _call_peer(self, peer: Peer, path: str, request: bytes, metadata: Metadata, timeout: float) -> Answer:
        method = peer.made(_unary, path)
        began = time.monotonic()
        try:
            with outgoing(path) as headers:
                call = method(request, metadata=(*metadata, *headers), timeout=timeout)
                value, absence = await call, None
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            value, absence = b"", error.details() or ""
        trailing = tuple((key, item) for key, item in await call.trailing_metadata())
        revision = next((int(item) for key, item in trailing if key == "x-revision" and str(item).isdecimal()), None)
        if absence is not None:
            details = next((item for key, item in trailing if key == _DETAILS), b"")
            value = details if isinstance(details, bytes) else b""
        return Answer(value, trailing, revision, time.monotonic() - began, absence)

    async def close(self) -> None:
        """
        Close the connections.
        """
        await asyncio.gather(*(peer.close() for peer in self._peers))


def _unary(channel: grpc.aio.Channel, path: str) -> Any:
    return channel.unary_unary(path, request_serializer=None, response_deserializer=None)
