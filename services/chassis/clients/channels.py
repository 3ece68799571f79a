"""
gRPC channels to other services, which pick up renewed certificates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import grpc

from services.chassis.serving.tls import Identity, channel_credentials
from services.chassis.settings.tls import Certificate

T = TypeVar("T")

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


class Peer:
    """
    Another service, or one worker of it. If its name resolves to several addresses, as that of a headless Service in
    Kubernetes does, calls are balanced round-robin.

    After a certificate renewal, new calls use a new channel. Calls in flight continue on the old one: gRPC core closes
    a channel without references when its last call has ended. The previous channel is referenced until the next
    renewal, because a call that is still waiting for a connection would fail with it.

    Args:
        target: host:port. With TLS, the worker's certificate has to name the host.
        identity: of this service; None means plain text.
        options: of the channel.
    """

    def __init__(self, target: str, identity: Identity | None = None, options: Sequence[tuple[str, Any]] = ()) -> None:
        self._target = target
        self._identity = identity
        self._options = [("grpc.service_config", _ROUND_ROBIN), *options]
        self._shown: Certificate | None = None
        self._made: dict[Hashable, Any] = {}
        self._before: grpc.aio.Channel | None = None
        self._channel = self._open()

    def channel(self) -> grpc.aio.Channel:
        """
        The channel for a new call. Do not keep a reference to it.
        """
        if self._identity is not None and self._identity.current() is not self._shown:
            self._made = {}
            self._before, self._channel = self._channel, self._open()
        return self._channel

    def made(self, make: Callable[..., T], *arguments: Hashable) -> T:
        """
        `make(channel, *arguments)`, such as a stub, cached per channel.
        """
        channel = self.channel()
        key = (make, arguments)
        found: T | None = self._made.get(key)
        if found is None:
            found = self._made[key] = make(channel, *arguments)
        return found

    async def close(self) -> None:
        """
        Cancel the calls and close the channels.
        """
        for channel in (self._before, self._channel):
            if channel is not None:
                await channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self._identity is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        self._shown = self._identity.current()
        return grpc.aio.secure_channel(self._target, channel_credentials(self._shown), options=self._options)
