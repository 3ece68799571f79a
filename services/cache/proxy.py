"""
The read-through proxy: one handler for every RPC with a policy, bytes in and bytes out.

near → shared → origin. What is found is served only while `Coherence` says that it is still true.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from services.cache.coherence import Coherence
from services.cache.layers import Entry, Near
from services.cache.metrics import CacheMetrics
from services.cache.origin import Answer, Metadata, Origin
from services.cache.policies import Policy
from services.cache.store import SharedStore
from services.chassis.context import Context
from services.chassis.deadlines import outgoing_timeout
from services.chassis.errors import InvalidArgument

# A load goes on for those who wait when the one who began it has gone, but not for ever.
_LOAD_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Levels:
    """
    What all proxied RPCs share.

    Args:
        near: the level in this process.
        shared: the level in Valkey.
        ttl: seconds that an answer is kept, by class.
        most_value_bytes: larger answers are not kept.
        metrics: what happened.
    """

    near: Near
    shared: SharedStore
    ttl: Mapping[str, float]
    most_value_bytes: int
    metrics: CacheMetrics


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What a caller asks of an answer.

    Args:
        minimum: the revision that it must reflect.
        fresh: it must come from the origin.
    """

    minimum: int
    fresh: bool

    @classmethod
    def of(cls, metadata: Metadata) -> Wish:
        """
        Read from the call's metadata.

        Raises:
            InvalidArgument: `x-min-revision` is not a number.
        """
        minimum, fresh = 0, False
        for key, value in metadata:
            if key == "x-min-revision":
                if not (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19):
                    raise InvalidArgument.of("x-min-revision", "must be a revision: a number from 0 on")
                minimum = int(value)
            elif key == "cache-control" and isinstance(value, str) and "no-cache" in value:
                fresh = True
        return cls(minimum, fresh)


class ReadThrough:
    """
    The handler of one RPC.

    Args:
        policy: of the RPC.
        origin: who answers it.
        coherence: what is known of the origin's changes.
        levels: where answers are kept.
    """

    def __init__(self, policy: Policy, origin: Origin, coherence: Coherence, levels: Levels) -> None:
        self._policy = policy
        self._origin = origin
        self._coherence = coherence
        self._levels = levels
        self._prefix = policy.path.encode() + b"\0"
        self._path = policy.path
        self._counts = levels.metrics.of(policy.kind)
        self._loads: dict[bytes, asyncio.Task[Answer]] = {}

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """
        For the server: without serializers, so that bytes come and go.
        """
        return grpc.unary_unary_rpc_method_handler(self.serve)

    async def serve(self, request: bytes, context: Context) -> bytes:
        """
        Answer *request*: from a level if that is known to be true, else from the origin.
        """
        metadata = context.invocation_metadata() or ()
        wish = Wish.of(metadata)
        if wish.fresh or not self._coherence.live:
            return await self._bypass(request, metadata, context)
        key = self._prefix + request
        entry = self._levels.near.get(key)
        if entry is not None:
            if self._serves(entry, wish):
                return self._found(entry, "near", context)
            self._levels.near.drop(key)
            self._counts.invalid += 1
        entry = await self._from_shared(key)
        if entry is not None and self._serves(entry, wish):
            self._levels.near.put(key, entry)
            return self._found(entry, "shared", context)
        return await self._miss(key, request, wish, metadata, context)

    def _serves(self, entry: Entry, wish: Wish) -> bool:
        # Again after every wait: the stream may have moved on or broken meanwhile.
        coherence = self._coherence
        return (
            coherence.live
            and coherence.valid(entry.revision, entry.tags)
            and coherence.reaches(wish.minimum, entry.revision)
        )

    def _found(self, entry: Entry, level: str, context: Context) -> bytes:
        if level == "near":
            self._counts.near += 1
        else:
            self._counts.shared += 1
        age = max(0, int(time.time() - entry.stored))
        context.set_trailing_metadata((("x-cache", level), ("x-revision", str(entry.revision)), ("age", str(age))))
        return entry.value

    async def _from_shared(self, key: bytes) -> Entry | None:
        data = await self._levels.shared.get(_digest(key))
        entry = Entry.decode(data) if data else None
        return entry if entry is not None and entry.expires > time.time() else None

    async def _miss(self, key: bytes, request: bytes, wish: Wish, metadata: Metadata, context: Context) -> bytes:
        self._counts.miss += 1
        load = self._loads.get(key)
        if load is not None:
            answer = await self._outcome(load, context)
            # A load that began before the caller's write may be older than what it has seen.
            if (answer.revision or 0) >= wish.minimum:
                return self._answered(answer, "miss", context)
        load = asyncio.create_task(self._load(key, request, metadata))
        self._loads[key] = load
        load.add_done_callback(lambda done: self._loads.pop(key) if self._loads.get(key) is done else None)
        return self._answered(await self._outcome(load, context), "miss", context)

    async def _bypass(self, request: bytes, metadata: Metadata, context: Context) -> bytes:
        self._counts.bypass += 1
        timeout = outgoing_timeout(otherwise=_LOAD_SECONDS)
        try:
            answer = await self._origin.call(self._path, request, metadata, timeout)
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)
            raise
        self._keep(self._prefix + request, request, answer)
        return self._answered(answer, "bypass", context)

    async def _load(self, key: bytes, request: bytes, metadata: Metadata) -> Answer:
        self._counts.loads += 1
        answer = await self._origin.call(self._path, request, metadata, _LOAD_SECONDS)
        self._keep(key, request, answer)
        return answer

    async def _outcome(self, load: asyncio.Task[Answer], context: Context) -> Answer:
        try:
            # Shielded, because others may wait for the same load.
            async with asyncio.timeout(outgoing_timeout(otherwise=_LOAD_SECONDS)):
                return await asyncio.shield(load)
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)
            raise

    def _keep(self, key: bytes, request: bytes, answer: Answer) -> None:
        """
        Keep an answer that says what it reflects and that nothing has made stale on its way.
        """
        ttl = self._levels.ttl.get(self._policy.kind, 0.0)
        if answer.revision is None or ttl <= 0 or len(answer.value) > self._levels.most_value_bytes:
            return
        now = time.time()
        entry = Entry(answer.value, answer.revision, self._policy.tags(request), now, now + ttl)
        if not self._coherence.valid(entry.revision, entry.tags):
            return
        self._levels.near.put(key, entry)
        self._levels.metrics.background(self._levels.shared.put(_digest(key), entry.encode(), ttl))

    def _answered(self, answer: Answer, how: str, context: Context) -> bytes:
        kept = tuple((key, value) for key, value in answer.trailing if key not in {"x-cache", "age", "x-request-id"})
        context.set_trailing_metadata((*kept, ("x-cache", how), ("age", "0")))
        return answer.value


async def _pass_on(error: grpc.aio.AioRpcError, context: Context) -> None:
    """
    Answer as the origin did, to the letter: code, message, details.
    """
    found: Any = error.trailing_metadata() or ()
    trailing = tuple((key, value) for key, value in found if key != "x-request-id")
    context.set_trailing_metadata(trailing)
    await context.abort(error.code(), error.details() or "")


def _digest(key: bytes) -> bytes:
    return b"my1:" + hashlib.sha256(key).digest()
