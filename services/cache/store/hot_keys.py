"""
Persists the most-read keys of each process in Valkey, for the next start.
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
# Older lists do not predict reads.
_OLDEST_SECONDS = 86_400.0


class HotStore:
    """
    One list of keys for each process.

    Args:
        valkey: the connection.
        prefix: of the key.
        process: identifies this process.
    """

    def __init__(self, valkey: Valkey, prefix: str, process: str) -> None:
        self._valkey = valkey
        self._name = f"{prefix}:hot".encode()
        self._process = process.encode()

    async def save(self, keys: Sequence[tuple[bytes, int]]) -> None:
        """
        Save the list of this process; a failure is ignored, as the next save follows.
        """
        parts = [_KEY.pack(len(key), count) + key for key, count in keys]
        data = _HEAD.pack(time.time()) + b"".join(parts)
        with suppress(Unreachable, Refused):
            await self._valkey.run(lambda client: client.hset(self._name, self._process, data), timeout=1.0)
            # With a TTL, so that a full Valkey may evict it (volatile eviction policies).
            await self._valkey.run(lambda client: client.expire(self._name, int(_OLDEST_SECONDS)), timeout=1.0)

    async def load(self) -> list[bytes]:
        """
        The keys of all processes, in descending order of reads.
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
    Decode a list; None when it is expired or malformed.
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
