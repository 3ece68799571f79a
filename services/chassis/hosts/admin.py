"""
Client of Envoy's administration interface, for a worker that drains.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.chassis.hosts import envoy
from services.chassis.hosts.config import ACTIVE_CONNECTIONS


class Admin:
    """
    Envoy's administration interface.

    Args:
        path: of its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def drain(self) -> None:
        """
        Accept no new connections, and send GOAWAY on each connection: with the next response, or once it is idle.
        """
        # In this order: a client that receives GOAWAY reconnects at once, and must not reach this worker again. The
        # graceful form of drain_listeners keeps listening until the drain has ended.
        await self._ask("POST", "/drain_listeners")
        await self._ask("POST", "/healthcheck/fail")
        self._end_idle_connections()

    async def connections(self) -> int:
        """
        The number of connections.
        """
        text = await self._ask("GET", "/stats?format=text")
        found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return int(found.get(ACTIVE_CONNECTIONS, 0))

    def _end_idle_connections(self) -> None:
        told = self._path.with_name(envoy.DRAINING)
        fresh = told.with_suffix(".new")
        fresh.write_text("1")
        fresh.replace(told)  # Envoy notices a file that is moved there, and none that is written to

    async def _ask(self, verb: str, path: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            writer.write(f"{verb} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            async with asyncio.timeout(5):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise OSError(f"Envoy refused {path}: {head[:80]!r}")
        return body.decode("utf-8", "replace")
