"""
Requests over kept HTTP/1.1 connections, one at a time on each, with as little work for the client as Python allows.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import uvloop

from bench import ghz

_PATIENCE = 30.0


def requests(target: str, method: str, path: str, seconds: float, connections: int) -> ghz.Measured:
    """
    Send the same request again and again.

    Args:
        target: host:port.
        method: HEAD, or GET of what has a Content-Length.
        path: as it is sent.
        seconds: how long.
        connections: requests in flight.

    Raises:
        OSError: nobody listens.
    """
    busy, began = time.process_time(), time.perf_counter()
    latencies, codes = uvloop.run(_all(target, method, path, seconds, connections))
    took = time.perf_counter() - began
    return ghz.Measured.of(latencies, len(latencies) / took, codes, (time.process_time() - busy) / took)


async def _all(
    target: str, method: str, path: str, seconds: float, connections: int
) -> tuple[list[float], Counter[str]]:
    latencies: list[float] = []
    codes: Counter[str] = Counter()
    request = f"{method} {path} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode()
    ends = time.perf_counter() + seconds

    async def one() -> None:
        host, _, port = target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while (began := time.perf_counter()) < ends:
                writer.write(request)
                status, length = await _head(reader)
                if method != "HEAD" and length:
                    await reader.readexactly(length)
                latencies.append((time.perf_counter() - began) * 1000)
                codes["OK" if status < 400 else str(status)] += 1
        finally:
            writer.close()

    async with asyncio.timeout(seconds + _PATIENCE):
        await asyncio.gather(*(one() for _ in range(connections)))
    return latencies, codes


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return int(head.split(b" ", 2)[1]), length
