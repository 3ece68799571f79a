"""
The L2 cache: shared by all processes, in Valkey.

Valkey never fails a read: no answer in time counts as a miss. An entry and its lease are in one hash slot.
"""

from __future__ import annotations

import hashlib
from typing import Any

from services.cache.model.entries import Entry
from services.cache.store.batches import ShardedGets
from services.cache.store.compression import Compression
from services.cache.store.valkey import Refused, Script, Unreachable, Valkey
from services.chassis.errors import Unavailable

_FAILED = (Unreachable, Refused)
_REVISION = 19
# After this, the holder of a lease is presumed dead.
_LEASE_MILLISECONDS = 5000
_FLUSH_SECONDS = 30.0

# Stores an entry unless a newer one exists, and releases the lease.
_PUT = Script(
    """
local old = redis.pcall('GETRANGE', KEYS[1], 0, 18)
local stored = 0
if type(old) ~= 'string' or not string.match(old, '^%d+$') or old <= ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
    stored = 1
end
if ARGV[4] ~= '' and redis.pcall('GET', KEYS[2]) == ARGV[4] then redis.call('DEL', KEYS[2]) end
return stored
"""
)
# Acquires a lease, and returns the current entry.
_LEASE = Script(
    """
local held = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
local entry = redis.pcall('GET', KEYS[1])
return {held and 1 or 0, type(entry) == 'string' and entry or false}
"""
)
_RELEASE = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")


class L2Cache:
    """
    Entries by key in Valkey.

    Args:
        valkey: the connection.
        compression: of values.
        prefix: of the keys; differs between suites that share a Valkey.

    Attributes:
        valkey: the connection.
        compression: with its statistics.
    """

    def __init__(self, valkey: Valkey, compression: Compression, prefix: str) -> None:
        self.valkey = valkey
        self.compression = compression
        self._prefix = prefix.encode() + b":r:"
        self._gets = ShardedGets(valkey)

    async def get(self, key: bytes) -> Entry | None:
        """
        The entry of *key*; None when there is none, or when Valkey does not answer.
        """
        name = self._name(key)
        try:
            data = await self._gets.get(name)
        except _FAILED:
            return None
        if data is None:
            return None
        entry = self._entry(key, data)
        if entry is None:
            self.valkey.malformed(name)
        else:
            self.valkey.well_formed()
        return entry

    async def put(self, key: bytes, entry: Entry, seconds: float, token: str = "") -> None:
        """
        Store *entry* for *seconds*, unless a newer one exists.

        Args:
            token: of the lease that it was loaded under, which is released.
        """
        name = self._name(key)
        data = self.compression.pack(entry.encode(key))
        arguments = (str(entry.revision).zfill(_REVISION), data, max(1, int(seconds * 1000)), token)
        try:
            await self.valkey.script(_PUT, (name, name + b":lease"), arguments)
        except _FAILED:
            return

    async def lease(self, key: bytes, token: str) -> tuple[bool | None, Entry | None]:
        """
        Acquire the lease to load *key*.

        Returns:
            True: acquired; False: held by another; None: Valkey does not answer. And the current entry of *key*: the
            previous holder may have stored it since the caller's read.
        """
        name = self._name(key)
        try:
            found = await self.valkey.script(_LEASE, (name, name + b":lease"), (token, _LEASE_MILLISECONDS))
        except _FAILED:
            return None, None
        if not isinstance(found, list) or len(found) != 2:
            self.valkey.malformed(name)
            return None, None
        return bool(found[0]), self._entry(key, found[1])

    async def release(self, key: bytes, token: str) -> None:
        """
        Release a lease without storing an entry.
        """
        try:
            await self.valkey.script(_RELEASE, (self._name(key) + b":lease",), (token,))
        except _FAILED:
            return

    async def flush(self) -> int:
        """
        Remove all entries, and return how many there were.

        Raises:
            Unavailable: Valkey does not answer.
        """

        async def drop(client: Any) -> int:
            dropped = 0
            async for name in client.scan_iter(match=self._prefix + b"*", count=1000):
                dropped += await client.unlink(name)
            return dropped

        try:
            return await self.valkey.run(drop, timeout=_FLUSH_SECONDS)
        except _FAILED as error:
            raise Unavailable("SHARED_STORE", "the shared store does not answer", retry_after=1.0) from error

    def _entry(self, key: bytes, data: bytes | None) -> Entry | None:
        body = None if data is None else self.compression.unpack(data[_REVISION:])
        return None if body is None else Entry.decode(key, body)

    def _name(self, key: bytes) -> bytes:
        # Braces (a hash tag) put the entry and its lease into one slot of a cluster.
        return self._prefix + b"{" + hashlib.sha256(key).hexdigest()[:40].encode() + b"}"
