"""
The network between a cache and the registry, with random delays and failures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from modelyard.changes.v1 import changes_pb2
from services.cache.read_through.origin import Answer, Metadata
from services.cache.tests.schedules.registry import QUESTIONS, Question, Registry

# Maximum lag of a replica in seconds: less than the staleness bound of the caches.
_MOST_LAG = 1.9
# The end of a stream: not a message.
END = object()


class Failure(grpc.aio.AioRpcError):
    """
    An error of the network or the registry.
    """

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata(), code.name, None)


class Token:
    """
    An empty service token.
    """

    def metadata(self) -> Metadata:
        """
        No metadata.
        """
        return ()


class Link:
    """
    The connection of one cache to the registry; stands in for its `Origin`.

    Args:
        registry: behind it.
    """

    name = "registry"
    token = Token()

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_request = {(question.path, question.request): question for question in QUESTIONS}

    async def call(self, path: str, request: bytes, metadata: Metadata, minimum: int, timeout: float) -> Answer:
        """
        See `Origin.call`.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(self._by_request[path, request], dict(metadata), minimum)
        except TimeoutError:
            raise Failure(grpc.StatusCode.DEADLINE_EXCEEDED) from None
        revision, said = answer
        trailing = (("x-revision", str(revision)),)
        took = time.monotonic() - began
        if said is None:
            return Answer(b"", trailing, revision, took, "no such thing")
        return Answer(said.encode(), trailing, revision, took)

    async def _ask(self, question: Question, metadata: dict[str, Any], minimum: int) -> tuple[int, str | None]:
        registry = self._registry
        await registry.passing()
        if registry.away or registry.dice.random() < 0.01:
            raise Failure(grpc.StatusCode.UNAVAILABLE)
        if metadata.get("x-modelyard-subject") == "refused":
            await registry.passing()
            raise Failure(grpc.StatusCode.UNAUTHENTICATED)
        if minimum > registry.revision:
            await registry.passing()
            raise Failure(grpc.StatusCode.FAILED_PRECONDITION)
        revision = registry.revision
        if registry.dice.random() < 0.3:
            # A lagging replica.
            least = max(minimum, registry.known_before(time.monotonic() - _MOST_LAG))
            revision = registry.dice.randint(least, revision)
        said = registry.at(question, revision)
        await registry.passing()
        return revision, said

    def channel(self) -> Link:
        """
        See `Origin.channel`.
        """
        return self

    def unary_stream(self, _path: str, **_serializers: object) -> Callable[..., Stream]:
        """
        For WatchChanges.
        """
        return lambda request, **_more: Stream(self._registry, request.start_revision)


class Stream:
    """
    One WatchChanges call: its messages are true when sent, and arrive later.

    Args:
        start: as in WatchChangesRequest.
    """

    def __init__(self, registry: Registry, start: int) -> None:
        self._registry = registry
        self._after = start - 1 if start else None
        self._began: float | None = None
        self._behind = False

    async def read(self) -> Any:
        """
        The next event.
        """
        registry = self._registry
        if self._began is None:
            await registry.passing(longest=3.0)
            self._begin()
        elif self._after == registry.revision:
            news = registry.news
            try:
                async with asyncio.timeout(0.5):
                    await news.wait()
            except TimeoutError:
                pass
        luck = registry.dice.random()
        if registry.away or luck < 0.01:
            raise Failure(grpc.StatusCode.UNAVAILABLE)
        if luck < 0.013:
            return END
        event = self._next()
        await registry.passing(longest=6.0)
        return event

    def cancel(self) -> None:
        """
        Nothing to release.
        """

    def _begin(self) -> None:
        registry = self._registry
        self._began = time.monotonic()
        if self._after is None:
            self._after = registry.revision
        elif self._after < registry.revision:
            self._behind = True

    def _next(self) -> changes_pb2.WatchChangesResponse:
        registry, after = self._registry, self._after
        assert after is not None
        assert self._began is not None
        if after + 1 < registry.oldest:
            self._after = registry.revision
            gap = changes_pb2.Discontinuity(oldest_revision=registry.oldest, head_revision=registry.revision)
            return changes_pb2.WatchChangesResponse(discontinuity=gap)
        heartbeat = changes_pb2.Heartbeat(applied_revision=after)
        if after < registry.revision:
            if self._behind:
                self._behind = False
                return changes_pb2.WatchChangesResponse(heartbeat=heartbeat)
            self._after = after + 1
            return _revision(after + 1, registry.changes[after + 1])
        heartbeat.current_until.FromNanoseconds(int((time.monotonic() - self._began) * 1e9))
        return changes_pb2.WatchChangesResponse(heartbeat=heartbeat)


def _revision(number: int, changed: Iterable[tuple[str, bool]]) -> changes_pb2.WatchChangesResponse:
    changes = [changes_pb2.Change(resource=resource, subtree=subtree) for resource, subtree in changed]
    return changes_pb2.WatchChangesResponse(revision=changes_pb2.Revision(revision=number, changes=changes))
