"""
The read-through proxy: one handler for every RPC with a policy, bytes in and bytes out.

L1 → L2 → origin. A cached entry is served only while `Coherence` confirms that it is valid. While the origin is
unavailable, an expired entry is served as stale (stale-if-error).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import Any

import grpc

from services.cache.model.coherence import Coherence
from services.cache.model.entries import Entry
from services.cache.model.hot_keys import HotKeys
from services.cache.read_through.loader import LOAD_SECONDS, Asked, CacheLevels, Loader, LoadResult
from services.cache.read_through.options import ReadOptions, read_options
from services.cache.read_through.origin import Answer, Metadata, Origin
from services.cache.read_through.policies import Policy
from services.cache.read_through.visibility import ALIKE, AssetVisibility, View, Visibility
from services.chassis.deadlines import outgoing_timeout
from services.chassis.errors import Unavailable
from services.chassis.interceptors import identity
from services.chassis.interceptors.permissions import VISIBILITY
from services.chassis.serving.context import Context

# With a stale answer at hand, the origin has this long to return a fresh one.
_PATIENCE = 1.0
# How many loads in progress a call joins before it calls the origin itself.
_JOINS = 2
_UNAVAILABLE = {grpc.StatusCode.UNAVAILABLE}
_REPLACED_HEADERS = {"x-cache", "age", "x-request-id", VISIBILITY}


class ReadThrough:
    """
    The handler of one RPC.

    Args:
        policy: of the RPC.
        origin: serves it.
        coherence: of the origin.
        levels: where answers are cached.
        hot: samples the keys that are read.
        visibility: what callers may read of the origin; None while access control is off.
    """

    def __init__(
        self,
        policy: Policy,
        origin: Origin,
        coherence: Coherence,
        levels: CacheLevels,
        hot: HotKeys,
        visibility: Visibility | AssetVisibility | None = None,
    ) -> None:
        self.policy = policy
        self._visibility = visibility
        self._token = origin.token
        self._coherence = coherence
        self._levels = levels
        self._near = levels.near
        self._hot = hot
        self._prefix = policy.path.encode() + b"\0"
        self._counts = levels.metrics.of(policy.kind)
        self._loader = Loader(policy, origin, coherence, levels)

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """
        The handler for the server, without serializers: requests and responses stay bytes.
        """
        return grpc.unary_unary_rpc_method_handler(self.serve)

    async def serve(self, request: bytes, context: Context) -> bytes:
        """
        Answer from the first level with a valid entry, else from the origin.
        """
        metadata = context.invocation_metadata() or ()
        options = read_options(metadata)
        name = self._prefix + request
        view: View | None = ALIKE
        if self._visibility is not None and (caller := identity()) is not None:
            try:
                view = self._visibility.of(caller, request, options.minimum)
            except Unavailable:
                view = None
        if view is None:
            # The origin decides.
            return await self._pass_through(request, options, metadata, context)
        key = self._coherence.epoch + view.key + name
        if not view.key:
            self._hot.read(name)
        entry = None
        if not options.fresh:
            entry = self._near.get(key)
            if entry is not None:
                now = time.time()
                if self._may_serve(entry, options.minimum, now):
                    self._counts.near += 1
                    if now > entry.renewable:
                        self._refresh_early(Asked(key, request, entry.tags, view.visibility), metadata, entry, now)
                    return await self._respond_with_entry(entry, "near", now, context)
                if not self._coherence.holds(entry):
                    self._near.drop(key, "invalid")
                    entry = None
        # A request that does not parse is rejected before L2, a lease or the origin is involved.
        tags = self.policy.tags(request) if view.tags is None else view.tags
        return await self._serve_further(Asked(key, request, tags, view.visibility), options, metadata, entry, context)

    async def warm(self, request: bytes) -> bool:
        """
        Load the answer to *request* into L1, and return whether that needed a call to the origin.

        Raises:
            grpc.aio.AioRpcError: as the origin answered.
        """
        key = self._coherence.epoch + self._prefix + request
        entry = self._near.get(key) or await self._levels.shared.get(key)
        if entry is not None and self._may_serve(entry, 0, time.time()):
            self._near.put(key, entry)
            return False
        visibility = None if self._visibility is None else self._visibility.warmed
        asked = Asked(key, request, self.policy.tags(request), visibility)
        await self._loader.call(asked, self._token.metadata(), 0, LOAD_SECONDS)
        return True

    async def _pass_through(self, request: bytes, options: ReadOptions, metadata: Metadata, context: Context) -> bytes:
        """
        Forward a call, without any of the cache's levels.
        """
        self._counts.bypass += 1
        try:
            timeout = outgoing_timeout(otherwise=LOAD_SECONDS)
            answer = await self._loader.pass_through(request, metadata, options.minimum, timeout)
        except grpc.aio.AioRpcError as error:
            await _forward_error(error, context)
            raise
        return await self._respond_with_answer(answer, "bypass", context)

    def _may_serve(self, entry: Entry, minimum: int, now: float) -> bool:
        # Checked again after every await: the stream may have advanced or broken meanwhile.
        coherence = self._coherence
        return (
            entry.expires > now
            and coherence.live
            and coherence.holds(entry)
            and (not minimum or coherence.reaches(minimum, entry.revision))
        )

    async def _serve_further(
        self, asked: Asked, options: ReadOptions, metadata: Metadata, near: Entry | None, context: Context
    ) -> bytes:
        key = asked.key
        found = None if options.fresh else await self._levels.shared.get(key)
        now = time.time()
        if found is not None and self._may_serve(found, options.minimum, now):
            self._near.put(key, found)
            self._counts.shared += 1
            return await self._respond_with_entry(found, "shared", now, context)
        if options.fresh or not self._coherence.live:
            self._counts.bypass += 1
            how = "bypass"
        else:
            self._counts.miss += 1
            how = "miss"
        late = next((each for each in (near, found) if each is not None and self._may_serve_stale(each, options)), None)
        try:
            loaded = await self._load(asked, options, metadata, None if late is None else _PATIENCE)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            unavailable = isinstance(error, TimeoutError) or error.code() in _UNAVAILABLE
            # Checked again after the await: the entry may have been invalidated meanwhile.
            if unavailable and late is not None and self._may_serve_stale(late, options):
                self._counts.stale += 1
                return await self._respond_with_entry(late, "stale", time.time(), context)
            if isinstance(error, TimeoutError):
                raise
            await _forward_error(error, context)
            raise
        if loaded.answer is not None:
            return await self._respond_with_answer(loaded.answer, how, context)
        if loaded.entry is not None:
            return await self._respond_with_entry(loaded.entry, "shared", time.time(), context)
        raise AssertionError("a load returns an answer or an entry")

    async def _load(
        self,
        asked: Asked,
        options: ReadOptions,
        metadata: Metadata,
        patience: float | None,
    ) -> LoadResult:
        """
        Call the origin, or join a load in progress.

        Args:
            patience: timeout in seconds; None for the caller's deadline.

        Raises:
            grpc.aio.AioRpcError: as the origin answered.
            TimeoutError: the origin did not answer in time.
        """
        timeout = outgoing_timeout(otherwise=LOAD_SECONDS)
        if options.fresh or self._loader.uncacheable(asked.key):
            return await self._loader.call(asked, metadata, options.minimum, timeout)
        if patience is not None:
            timeout = min(timeout, patience)
        async with asyncio.timeout(timeout):
            # A minimum that is unknown here may be made up: such a load is not shared, so that nobody waits for it.
            known = options.minimum <= self._coherence.applied
            loaded = await self._join_or_load(asked, options.minimum, metadata) if known else None
            return loaded or await self._loader.call(asked, metadata, options.minimum, timeout)

    async def _join_or_load(self, asked: Asked, minimum: int, metadata: Metadata) -> LoadResult | None:
        """
        The result of a shared load: one in progress, or else a new one. None when the caller has to call the origin
        itself.

        Args:
            minimum: a revision that is known here.
        """
        # A load that started earlier may predate changes that are known by now. A result of at least this revision
        # reflects all of them, the minimum included. A second load started after this call arrived.
        least = self._coherence.newest(asked.tags)
        # While the stream is silent, changes are unknown, and only the origin bounds the age of its answer. The answer
        # of a load that started before this call is older by the time since then, on top of a lagging replica's lag.
        since = float("-inf") if self._coherence.live else time.monotonic()

        def acceptable(entry: Entry) -> bool:
            return self._may_serve(entry, minimum, time.time())

        for _ in range(_JOINS):
            # Shielded, because other calls may wait for the same load.
            load = self._loader.in_progress(asked.key)
            if load is None:
                return await asyncio.shield(self._loader.start(asked, metadata, minimum, acceptable))
            self._counts.waits += 1
            try:
                loaded = await asyncio.shield(load)
            except grpc.aio.AioRpcError as error:
                if error.code() in _UNAVAILABLE:
                    raise
                # The error may concern the caller that started the load, such as its token.
                return None
            if loaded.private:
                return None
            if loaded.revision >= least and loaded.asked >= since:
                return loaded
        return None

    def _may_serve_stale(self, entry: Entry, options: ReadOptions) -> bool:
        """
        Whether an entry may be served stale, past its TTL or while the stream is silent: not if it is known to be
        invalid, or older than the caller's minimum.
        """
        return (
            not options.fresh
            and entry.absence is None
            and time.time() < entry.expires + self._levels.grace
            and self._coherence.holds(entry)
            and self._coherence.reaches(options.minimum, entry.revision)
        )

    def _refresh_early(self, asked: Asked, metadata: Metadata, entry: Entry, now: float) -> None:
        """
        Refresh a hot entry early, with a probability per read that grows towards its expiry: XFetch (Vattani,
        Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", PVLDB 8(8), 2015), with beta = 1.
        """
        if now - entry.took * math.log(1.0 - random.random()) < entry.expires:  # noqa: S311 - not for cryptography
            return
        if self._loader.in_progress(asked.key) is None:
            self._counts.renewals += 1

            def acceptable(other: Entry) -> bool:
                return other.expires > entry.expires and self._may_serve(other, 0, time.time())

            load = self._loader.start(asked, metadata, 0, acceptable)
            # A failed refresh is ignored: the entry is valid until it expires.
            load.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _respond_with_entry(self, entry: Entry, level: str, now: float, context: Context) -> bytes:
        age = str(max(0, int(now - entry.stored)))
        trailing = (("x-cache", level), ("x-revision", str(entry.revision)), ("age", age))
        if entry.absence is None:
            context.set_trailing_metadata(trailing)
            return entry.value
        self._counts.absent += 1
        details = (("grpc-status-details-bin", entry.value),) if entry.value else ()
        context.set_trailing_metadata((*trailing, *details))
        await context.abort(grpc.StatusCode.NOT_FOUND, entry.absence)
        raise AssertionError("abort raises")

    async def _respond_with_answer(self, answer: Answer, how: str, context: Context) -> bytes:
        kept = tuple((key, value) for key, value in answer.trailing if key not in _REPLACED_HEADERS)
        context.set_trailing_metadata((*kept, ("x-cache", how), ("age", "0")))
        if answer.absence is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, answer.absence)
        return answer.value


async def _forward_error(error: grpc.aio.AioRpcError, context: Context) -> None:
    """
    Return the origin's error unchanged: code, message, details.
    """
    found: Any = error.trailing_metadata() or ()
    trailing = tuple((key, value) for key, value in found if key not in {"x-request-id", VISIBILITY})
    context.set_trailing_metadata(trailing)
    await context.abort(error.code(), error.details() or "")
