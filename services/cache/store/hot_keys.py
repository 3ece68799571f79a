"""
The most-read keys of each process, kept in Valkey over its end.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from services.cache.store.valkey import Refused, Unreachable, Valkey

_HEAD = struct.Struct(">d")
_KEY = struct.Struct(">II")
# What was read longer ago says nothing about what will be.
_OLDEST_SECONDS = 86_400.0


class HotStore:
    """
    One list of keys for each process.

    Args:
        valkey: the connection.
        prefix: what the key begins with.
        process: which of the processes this is.
    """

    def __init__(self, valkey: Valkey, prefix: str, process: str) -> None:
        self._valkey = valkey
        self._name = f"{prefix}:hot".encode()
        self._process = process.encode()

    async def save(self, keys: Sequence[tuple[bytes, int]]) -> None:
        """
        Keep this process's list; one that cannot be kept now is kept the next time.
        """
        parts = [_KEY.pack(len(key), count) + key for key, count in keys]
        data = _HEAD.pack(time.time()) + b"".join(parts)
        with suppress(Unreachable, Refused):
            await self._valkey.run(lambda client: client.hset(self._name, self._process, data), timeout=1.0)
            # Like everything that may go: a full Valkey lets go of what has a time-to-live only.
            await self._valkey.run(lambda client: client.expire(self._name, int(_OLDEST_SECONDS)), timeout=1.0)

    async def load(self) -> list[bytes]:
        """
        The keys of all processes' lists, the most-read one first.
        """
        try:
            found = await self._valkey.run(lambda client: client.hgetall(self._name), timeout=1.0)
            reads: Counter[bytes] = Counter()
            for process, data in found.items():
                keys = _decode(data)
                if keys is None:
                    await self._forget(process)
                else:
                    reads.update(keys)
        except (Unreachable, Refused):
            return []
        return [key for key, _ in reads.most_common()]

    async def _forget(self, process: bytes) -> None:
        await self._valkey.run(lambda client: client.hdel(self._name, process))


def _decode(data: bytes) -> dict[bytes, int] | None:
    """
    A list; None when it is old or none.
    """
    keys: dict[bytes, int] = {}
    try:
        (saved,) = _HEAD.unpack_from(data)
        at = _HEAD.size
        while at < len(data):
            length, count = _KEY.unpack_from(data, at)
            at += _KEY.size
            keys[data[at : at + length]] = count
            at += length
    except struct.error:
        return None
    return keys if time.time() - saved < _OLDEST_SECONDS else None
