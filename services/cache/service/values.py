"""
The key-value cache for internal services.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from services.cache.invalidation_feed import InvalidationFeed, names
from services.cache.model import page_tokens
from services.cache.model.coherence import CELLS, Coherence
from services.cache.model.entries import Entry
from services.cache.model.l1 import L1Cache
from services.cache.model.namespaces import MOST_TAGS, Namespace, check_key, check_keys
from services.cache.model.permissions import Permission
from services.cache.model.values import Draft, Hit, Invalidation, Lease, Stored, Value
from services.cache.read_through.options import ReadOptions, read_options
from services.cache.service import permissions
from services.cache.store.values import ValueStore
from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.chassis.serving.context import Context

_HEARTBEAT_SECONDS = 1.0
_LEASE_SECONDS = (0.01, 5.0, 60.0)
_PAGE = (100, 1000)
_MOST_SEQUENCE = 2**63


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """
    The state of a namespace in this process.

    Args:
        namespace: its name and limits.
        feed: its invalidation feed.
        results: hits and misses of this process.
    """

    namespace: Namespace
    feed: InvalidationFeed
    results: Counter[str] = field(default_factory=Counter)

    def prefix(self) -> bytes:
        """
        Prefix of the keys in L1; changes when all cached entries become invalid.
        """
        return b"\0%s\0%d\0" % (self.namespace.id.encode(), self.feed.generation)


def namespace_states(namespaces: Sequence[Namespace], store: ValueStore, bound: float) -> dict[str, NamespaceState]:
    """
    The state of each namespace, by name.

    Args:
        bound: maximum age of the feed in seconds; beyond it, nothing is served from L1.
    """
    return {
        namespace.id: NamespaceState(namespace, InvalidationFeed(namespace, store, _coherence(namespace, bound)))
        for namespace in namespaces
    }


def _coherence(namespace: Namespace, bound: float) -> Coherence:
    # Slashes in keys and tags have no meaning. Without L1, nothing is validated, and the table needs no cells.
    return Coherence(bound=bound, cells=CELLS if namespace.near else 1, nested=False)


class KeyValueService(cache_pb2_grpc.KeyValueServiceServicer):
    """
    Serves `modelyard.cache.v1.KeyValueService`.

    Args:
        found: the namespaces, by name.
        store: the values.
        near: L1, for the namespaces that use it.
        draining: set when the process shuts down; ends the watches.
    """

    def __init__(
        self, found: Mapping[str, NamespaceState], store: ValueStore, near: L1Cache, draining: asyncio.Event
    ) -> None:
        self._draining = draining
        self._namespaces = found
        self._store = store
        self._near = near

    async def Get(self, request: cache_pb2.GetRequest, context: Context) -> cache_pb2.GetResponse:
        """
        The value of a key.
        """
        state = self._namespace_state(request.namespace, Permission.READ, context)
        check_key(request.key, "key")
        value = await self._get(state, request.key, read_options(context.invocation_metadata() or ()), context)
        if value is None:
            raise NotFound("KEY_NOT_FOUND", f"{request.namespace}/{request.key}", "there is no such key, or no longer")
        return cache_pb2.GetResponse(entry=_entry(value), expire_time=_time(value.expires))

    async def BatchGet(self, request: cache_pb2.BatchGetRequest, context: Context) -> cache_pb2.BatchGetResponse:
        """
        The values of keys.
        """
        state = self._namespace_state(request.namespace, Permission.READ, context)
        check_keys(request.keys, "keys")
        found = await self._store.get(state.namespace, request.keys)
        values = [value for value in found.values if value is not None]
        state.results["hit"] += len(values)
        state.results["miss"] += len(found.values) - len(values)
        _set_trailing(context, "shared", found.sequence)
        return cache_pb2.BatchGetResponse(entries=map(_entry, values))

    async def Set(self, request: cache_pb2.SetRequest, context: Context) -> cache_pb2.SetResponse:
        """
        Store a value.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        stored = await self._set(state, [_draft(request.entry, state.namespace, "entry")], context)
        return cache_pb2.SetResponse(expire_time=_time(stored.expires))

    async def BatchSet(self, request: cache_pb2.BatchSetRequest, context: Context) -> cache_pb2.BatchSetResponse:
        """
        Store values.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_keys([entry.key for entry in request.entries], "entries")
        drafts = [_draft(entry, state.namespace, f"entries[{at}]") for at, entry in enumerate(request.entries)]
        await self._set(state, drafts, context)
        return cache_pb2.BatchSetResponse()

    async def Delete(self, request: cache_pb2.DeleteRequest, context: Context) -> cache_pb2.DeleteResponse:
        """
        Remove keys.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_keys(request.keys, "keys")
        sequence, count = await self._store.delete(state.namespace, request.keys)
        self._changed(state, sequence, tuple(request.keys), (), context)
        return cache_pb2.DeleteResponse(deleted_count=count)

    async def Touch(self, request: cache_pb2.TouchRequest, context: Context) -> cache_pb2.TouchResponse:
        """
        Set the TTL of a key.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_key(request.key, "key")
        ttl = state.namespace.ttl(_seconds(request, "ttl"), "ttl")
        expires = await self._store.touch(state.namespace, request.key, ttl)
        if expires is None:
            raise NotFound("KEY_NOT_FOUND", f"{request.namespace}/{request.key}", "there is no such key, or no longer")
        self._near.drop(state.prefix() + request.key.encode(), "invalid")
        return cache_pb2.TouchResponse(expire_time=_time(expires))

    async def InvalidateTags(
        self, request: cache_pb2.InvalidateTagsRequest, context: Context
    ) -> cache_pb2.InvalidateTagsResponse:
        """
        Invalidate all entries that have one of the tags.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_keys(request.tags, "tags")
        sequence = await self._store.invalidate(state.namespace, request.tags)
        self._changed(state, sequence, (), tuple(request.tags), context)
        return cache_pb2.InvalidateTagsResponse(sequence=sequence)

    async def GetOrLease(self, request: cache_pb2.GetOrLeaseRequest, context: Context) -> cache_pb2.GetOrLeaseResponse:
        """
        The value of a key, or the lease to fill it.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_key(request.key, "key")
        least, usual, most = _LEASE_SECONDS
        wanted = _seconds(request, "lease_duration")
        seconds = usual if wanted is None else wanted
        if not least <= seconds <= most:
            raise InvalidArgument.of("lease_duration", f"must be from {least * 1000:g} ms to {most:g} s")
        near = self._from_l1(state, request.key, read_options(context.invocation_metadata() or ()))
        if near is not None:
            value, revision = near
            _set_trailing(context, "near", revision)
            return cache_pb2.GetOrLeaseResponse(entry=_entry(value))
        near_key = state.prefix() + request.key.encode()
        outcome = await self._store.get_or_lease(state.namespace, request.key, int(seconds * 1000))
        if isinstance(outcome, Hit):
            value = outcome.value
            state.results["hit"] += 1
            self._put_l1(state, near_key, outcome.sequence, value)
            _set_trailing(context, "shared", outcome.sequence)
            return cache_pb2.GetOrLeaseResponse(entry=_entry(value))
        state.results["miss"] += 1
        if isinstance(outcome, Lease):
            lease = cache_pb2.GetOrLeaseResponse.Lease(token=outcome.token, expire_time=_time(outcome.expires))
            return cache_pb2.GetOrLeaseResponse(lease=lease)
        # A short retry delay, because most fills take less than their lease.
        delay = Duration()
        delay.FromMilliseconds(max(1, min(outcome.milliseconds, 50)))
        return cache_pb2.GetOrLeaseResponse(retry_delay=delay)

    async def Fill(self, request: cache_pb2.FillRequest, context: Context) -> cache_pb2.FillResponse:
        """
        Store the value that a lease was given for.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        if not (request.lease_token.isascii() and request.lease_token.isdecimal() and len(request.lease_token) < 20):
            raise InvalidArgument.of("lease_token", "must be the token of a lease that GetOrLease gave")
        draft = _draft(request.entry, state.namespace, "entry")
        stored = await self._store.fill(state.namespace, request.lease_token, draft)
        self._changed(state, stored.sequence, (draft.key,), (), context)
        return cache_pb2.FillResponse(expire_time=_time(stored.expires))

    async def Increment(self, request: cache_pb2.IncrementRequest, context: Context) -> cache_pb2.IncrementResponse:
        """
        Add to a counter.
        """
        state = self._namespace_state(request.namespace, Permission.WRITE, context)
        check_key(request.key, "key")
        ttl = state.namespace.ttl(_seconds(request, "ttl"), "ttl")
        sequence, value = await self._store.increment(state.namespace, request.key, request.delta or 1, ttl)
        self._changed(state, sequence, (request.key,), (), context)
        return cache_pb2.IncrementResponse(value=value)

    async def Scan(self, request: cache_pb2.ScanRequest, context: Context) -> cache_pb2.ScanResponse:
        """
        Keys of a namespace.
        """
        state = self._namespace_state(request.namespace, Permission.READ, context)
        if request.key_prefix:
            check_key(request.key_prefix, "key_prefix")
        if request.page_size < 0:
            raise InvalidArgument.of("page_size", "must not be negative")
        usual, most = _PAGE
        size = min(request.page_size or usual, most)
        after = page_tokens.position(request.namespace, request.key_prefix, request.page_token)
        keys, last = await self._store.scan(state.namespace, request.key_prefix, after, size)
        token = page_tokens.token(request.namespace, request.key_prefix, last) if last else ""
        return cache_pb2.ScanResponse(keys=keys, next_page_token=token)

    async def Stats(self, request: cache_pb2.StatsRequest, context: Context) -> cache_pb2.StatsResponse:
        """
        Counts and sizes of a namespace.
        """
        state = self._namespace_state(request.namespace, Permission.READ, context)
        sizes = await self._store.sizes(state.namespace)
        return cache_pb2.StatsResponse(
            hits=state.results["hit"],
            misses=state.results["miss"],
            entries=sizes.entries,
            bytes=sizes.bytes,
            evictions=sizes.evicted,
        )

    async def Watch(self, request: cache_pb2.WatchRequest, context: Context) -> AsyncIterator[cache_pb2.WatchResponse]:
        """
        Stream the invalidations of a namespace.
        """
        state = self._namespace_state(request.namespace, Permission.READ, context)
        if not 0 <= request.start_sequence < _MOST_SEQUENCE:
            raise InvalidArgument.of("start_sequence", "must not be negative")
        async for event in state.feed.watch(request.start_sequence, _HEARTBEAT_SECONDS, self._draining):
            match event:
                case Invalidation(sequence, keys, tags):
                    change = cache_pb2.WatchResponse.Invalidation(sequence=sequence, keys=keys, tags=tags)
                    yield cache_pb2.WatchResponse(invalidation=change)
                case "applied", sequence:
                    yield cache_pb2.WatchResponse(applied_sequence=sequence)
                case _, sequence:
                    yield cache_pb2.WatchResponse(discontinuity_sequence=sequence)

    def _namespace_state(self, name: str, permission: Permission, context: Context) -> NamespaceState:
        state = self._namespaces.get(name)
        if state is None or not permissions.visible(state.namespace, context):
            known = ", ".join(
                sorted(each for each, state in self._namespaces.items() if _visible(state.namespace, context))
            )
            raise InvalidArgument.of(
                "namespace",
                f"must be a configured namespace that the caller may use: {known or 'there is none'}",
                reason="UNKNOWN_NAMESPACE",
            )
        permissions.check(state.namespace, permission)
        return state

    async def _get(self, state: NamespaceState, key: str, wanted: ReadOptions, context: Context) -> Value | None:
        near = self._from_l1(state, key, wanted)
        if near is not None:
            value, revision = near
            _set_trailing(context, "near", revision)
            return value
        # Taken before the read: if the generation changes meanwhile, the answer must not be cached under the new one.
        near_key = state.prefix() + key.encode()
        found = await self._store.get(state.namespace, [key])
        (there,) = found.values
        state.results["miss" if there is None else "hit"] += 1
        _set_trailing(context, "miss" if there is None else "shared", found.sequence)
        if there is not None:
            self._put_l1(state, near_key, found.sequence, there)
        return there

    def _from_l1(self, state: NamespaceState, key: str, wanted: ReadOptions) -> tuple[Value, int] | None:
        """
        The value in L1 and the sequence that it reflects, if it is valid.
        """
        if not state.namespace.near or wanted.fresh:
            return None
        near_key = state.prefix() + key.encode()
        entry = self._near.get(near_key)
        if entry is None:
            return None
        coherence = state.feed.coherence
        if not coherence.holds(entry) or entry.expires <= time.time():
            self._near.drop(near_key, "invalid")
            return None
        if not (coherence.live and coherence.reaches(wanted.minimum, entry.revision)):
            return None
        state.results["hit"] += 1
        tags = tuple(tag[2:] for tag in entry.tags[1:])
        return Value(key, entry.value, tags, int(entry.expires * 1000)), entry.revision

    def _put_l1(self, state: NamespaceState, near_key: bytes, sequence: int, value: Value) -> None:
        tags = names((value.key,), value.tags)
        if state.namespace.near and state.feed.coherence.valid(sequence, tags):
            entry = Entry(value.value, sequence, tags, time.time(), value.expires / 1000)
            self._near.put(near_key, entry)

    async def _set(self, state: NamespaceState, drafts: Sequence[Draft], context: Context) -> Stored:
        stored = await self._store.set(state.namespace, drafts)
        self._changed(state, stored.sequence, tuple(draft.key for draft in drafts), (), context)
        return stored

    def _changed(
        self, state: NamespaceState, sequence: int, keys: tuple[str, ...], tags: tuple[str, ...], context: Context
    ) -> None:
        """
        Apply the changes of a write at once in this process; other processes learn them from the feed.
        """
        if state.namespace.near:
            state.feed.coherence.touch(sequence, [(name, False) for name in names(keys, tags)])
        context.set_trailing_metadata((("x-revision", str(sequence)),))


def _visible(namespace: Namespace, context: Context) -> bool:
    with suppress(FailedPrecondition):
        return permissions.visible(namespace, context)
    return False


def _set_trailing(context: Context, level: str, sequence: int) -> None:
    context.set_trailing_metadata((("x-cache", level), ("x-revision", str(sequence))))


def _draft(entry: cache_pb2.Entry, namespace: Namespace, field: str) -> Draft:
    check_key(entry.key, f"{field}.key")
    check_keys(entry.tags, f"{field}.tags", most=MOST_TAGS, least=0)
    if len(entry.value) > namespace.most_value_bytes:
        bound = namespace.most_value_bytes
        raise InvalidArgument.of(
            f"{field}.value", f"must be at most {bound:,} bytes in {namespace.id}: it is {len(entry.value):,}"
        )
    ttl = namespace.ttl(_seconds(entry, "ttl"), f"{field}.ttl")
    return Draft(entry.key, entry.value, tuple(dict.fromkeys(entry.tags)), ttl)


def _seconds(
    message: cache_pb2.Entry | cache_pb2.TouchRequest | cache_pb2.IncrementRequest | cache_pb2.GetOrLeaseRequest,
    field: str,
) -> float | None:
    if not message.HasField(field):  # type: ignore[arg-type] # each has the field that it is asked for
        return None
    found: Duration = getattr(message, field)
    return found.seconds + found.nanos / 1e9


def _entry(value: Value) -> cache_pb2.Entry:
    return cache_pb2.Entry(key=value.key, value=value.value, tags=value.tags)


def _time(milliseconds: int) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(datetime.fromtimestamp(milliseconds / 1000, UTC))
    return found
