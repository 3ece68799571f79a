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

_IN_TURNS = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


class Peer:
    """
    Another service, or one worker of it. When its name stands for several addresses, as that of a headless Service in
    Kubernetes does, they take turns.

    A renewed certificate means a new channel for the calls from then on. Calls under way go on where they are: a
    channel that nobody holds is closed when the last of its calls has ended (gRPC's core counts them). The one before
    is held until the next renewal, because a call that still waits for its connection would fail with it.

    Args:
        target: host:port. With TLS, the host is what the worker's certificate has to name.
        identity: of this service; None means plain text.
        options: of the channel.
    """

    def __init__(self, target: str, identity: Identity | None = None, options: Sequence[tuple[str, Any]] = ()) -> None:
        self._target = target
        self._identity = identity
        self._options = [("grpc.service_config", _IN_TURNS), *options]
        self._shown: Certificate | None = None
        self._made: dict[Hashable, Any] = {}
        self._before: grpc.aio.Channel | None = None
        self._channel = self._open()

    def channel(self) -> grpc.aio.Channel:
        """
        The channel for a call that begins now. Do not keep it.
        """
        if self._identity is not None and self._identity.current() is not self._shown:
            self._made = {}
            self._before, self._channel = self._channel, self._open()
        return self._channel

    def made(self, make: Callable[..., T], *arguments: Hashable) -> T:
        """
        `make(channel, *arguments)`, such as a stub: made once for each channel.
        """
        channel = self.channel()
        key = (make, arguments)
        found: T | None = self._made.get(key)
        if found is None:
            found = self._made[key] = make(channel, *arguments)
        return found

    async def close(self) -> None:
        """
        End the calls, and close the channels.
        """
        for channel in (self._before, self._channel):
            if channel is not None:
                await channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self._identity is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        self._shown = self._identity.current()
        return grpc.aio.secure_channel(self._target, channel_credentials(self._shown), options=self._options)
