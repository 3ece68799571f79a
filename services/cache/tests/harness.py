"""
A cache on the grpcio host in this process, and an origin behind it that tests can pause, break and inspect.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import redis
from prometheus_client import CollectorRegistry

from embedded.parts import free_port
from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import changes_pb2_grpc, models_pb2, models_pb2_grpc
from services.cache.__main__ import compose
from services.cache.settings import CacheSettings
from services.chassis.hosts.grpcio import GrpcioHost
from services.chassis.observability.metrics import Metrics
from services.chassis.serving.server import Server
from services.chassis.settings import load

NAME = "namespaces/default/models/m"


@dataclass(frozen=True)
class Backend:
    """
    A Valkey, or a cluster of them.
    """

    url: str
    cluster: bool = False

    def client(self) -> Any:
        """
        A client.
        """
        return redis.RedisCluster.from_url(self.url) if self.cluster else redis.Redis.from_url(self.url)

    def environ(self) -> dict[str, str]:
        """
        The settings of a cache that uses it.
        """
        return {"MODELYARD_VALKEY_URL": self.url, "MODELYARD_VALKEY_CLUSTER": "true" if self.cluster else "false"}


class Origin(models_pb2_grpc.ModelServiceServicer, changes_pb2_grpc.ChangeServiceServicer):
    """
    Models in memory with one sequence of revisions, like the registry.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.owners: dict[str, str] = {NAME: "first"}
        self.log: list[tuple[int, str]] = [(1, NAME)]
        self.oldest = 1
        self.calls = 0
        self.calls_of: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.silent = False
        # Seconds that the next watch takes to start, and that every one does.
        self.late = 0.0
        self.always_late = 0.0
        self.backlog = asyncio.Event()
        self.backlog.set()
        self.committed = 0.0
        self.says_revision = True
        self.size = 0
        self.private = False
        self.slowness = 0.0
        self.away = False
        self.minimums: list[int] = []
        self._changed = asyncio.Event()
        self._breaks = 0
        self._highest = 1
        # The status of broken streams, and the tokens of all streams.
        self.breaks_with = grpc.StatusCode.UNAVAILABLE
        self.tokens: list[str] = []

    async def write(self, owner: str, name: str = NAME) -> int:
        """
        Change a model and return the revision of the change.
        """
        self.revision += 1
        self._highest = max(self._highest, self.revision)
        self.owners[name] = owner
        self.log.append((self.revision, name))
        self._tell()
        return self.revision

    def reset(self) -> None:
        """
        Begin another test: the first model alone, at a new revision that invalidates everything that was cached.
        """
        highest = max(self._highest, self.revision)
        tell, gate, backlog, breaks = self._tell, self.gate, self.backlog, self._breaks
        waiting = self._changed
        self.__init__()  # type: ignore[misc] # all its state, as at the beginning
        for event in (gate, backlog):
            event.set()
        self.gate, self.backlog, self._breaks, self._changed = gate, backlog, breaks, waiting
        self.revision = self._highest = self.oldest = highest + 1
        self.log = [(self.revision, "namespaces/default")]
        tell()

    async def break_streams(self) -> None:
        """
        End every watch.
        """
        self._breaks += 1
        self._tell()

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        """
        Read at once, and answer when the gate is open.
        """
        self.calls += 1
        self.calls_of[request.name] += 1
        asked: Any = dict(context.invocation_metadata() or ())
        minimum = int(asked.get("x-min-revision", "0"))
        self.minimums.append(minimum)
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if minimum > self.revision:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "there is no such revision")
        owner, revision = self.owners.get(request.name), self.revision
        await self.gate.wait()
        await asyncio.sleep(self.slowness)
        if int(asked.get("x-min-revision", "0")) > self.revision:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the revision has not been reached")
        if asked.get("x-modelyard-subject") == "refused":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        if owner is None:
            context.set_trailing_metadata((("grpc-status-details-bin", b"details"), ("x-revision", str(revision))))
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            raise AssertionError("abort raises")
        said = (("x-revision", str(revision)),) if self.says_revision else ()
        if self.private:
            owner = str(asked.get("x-modelyard-subject", ""))
            said = (*said, ("cache-control", "private"))
        context.set_trailing_metadata(said)
        return models_pb2.Model(name=request.name, owner=owner, revision=revision, description="x" * self.size)

    async def WatchChanges(
        self, request: changes_pb2.WatchChangesRequest, context: Any
    ) -> AsyncIterator[changes_pb2.WatchChangesResponse]:
        """
        Like the registry: a heartbeat first and between, every revision once.
        """
        sent: Any = dict(context.invocation_metadata() or ())
        self.tokens.append(str(sent.get("authorization", "")))
        late, self.late = self.late, 0.0
        await asyncio.sleep(max(late, self.always_late))
        began, breaks = time.monotonic_ns(), self._breaks
        after = request.start_revision - 1 if request.start_revision else self.revision
        if request.start_revision and request.start_revision < self.oldest:
            after = self.revision
            gap = changes_pb2.Discontinuity(oldest_revision=self.oldest, head_revision=self.revision)
            yield changes_pb2.WatchChangesResponse(discontinuity=gap)
        elif request.start_revision and after < self.revision:
            # Like the registry, for a stream that is behind.
            yield changes_pb2.WatchChangesResponse(heartbeat=changes_pb2.Heartbeat(applied_revision=after))
            await self.backlog.wait()
        while self._breaks == breaks:
            current, changed = time.monotonic_ns() - began, self._changed
            for revision, name in [entry for entry in self.log if entry[0] > after]:
                subtree = "/models/" not in name
                change = changes_pb2.Change(resource=name, kind=changes_pb2.Change.KIND_UPDATED, subtree=subtree)
                event = changes_pb2.Revision(revision=revision, changes=[change])
                event.commit_time.FromNanoseconds(int((self.committed or time.time()) * 1e9))
                after = revision
                yield changes_pb2.WatchChangesResponse(revision=event)
            while self.silent:
                await asyncio.sleep(0.05)
            heartbeat = changes_pb2.Heartbeat(applied_revision=after)
            heartbeat.current_until.FromNanoseconds(current)
            yield changes_pb2.WatchChangesResponse(heartbeat=heartbeat)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), 0.1)
        await context.abort(self.breaks_with, "broken by the test")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(frozen=True)
class Answer:
    """
    The result of a read: the model's owner, and the metadata.
    """

    owner: str
    cache: str
    trailing: Mapping[str, Any]


class Cache:
    """
    A running cache.
    """

    def __init__(self, channel: grpc.aio.Channel, metrics: CollectorRegistry) -> None:
        self.channel = channel
        self._metrics = metrics
        self._stub = models_pb2_grpc.ModelServiceStub(channel)

    async def read(self, name: str = NAME, **metadata: str) -> Answer:
        """
        GetModel, with metadata whose keys are written with underscores.
        """
        pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        call = self._stub.GetModel(models_pb2.GetModelRequest(name=name), metadata=pairs, timeout=30)
        model = await call
        trailing: dict[str, Any] = dict(await call.trailing_metadata())
        return Answer(model.owner, str(trailing["x-cache"]), trailing)

    def number(self, metric: str, **labels: str) -> float:
        """
        A metric of this process.
        """
        found = self._metrics.get_sample_value(metric, {key.rstrip("_"): value for key, value in labels.items()})
        assert found is not None, (metric, labels)
        return found

    async def reset(self, origin: Origin) -> None:
        """
        Empty L1, and wait until the stream has delivered the revision at which *origin* was reset.
        """
        admin: Any = cache_pb2_grpc.CacheAdminServiceStub(self.channel)
        async with asyncio.timeout(30):
            while True:
                stream = (await admin.GetStatus(cache_pb2.GetStatusRequest())).streams[0]
                if stream.connected and stream.applied_revision == origin.revision:
                    break
                await asyncio.sleep(0.005)
        await admin.Flush(cache_pb2.FlushRequest())

    async def warm(self, name: str = NAME) -> None:
        """
        Wait until reads are served from L1.
        """
        async with asyncio.timeout(30):
            while (await self.read(name)).cache != "near":
                await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(origin: Origin) -> AsyncIterator[str]:
    """
    Serve the origin, and yield its host:port.
    """
    server = grpc.aio.server()
    models_pb2_grpc.add_ModelServiceServicer_to_server(origin, server)
    changes_pb2_grpc.add_ChangeServiceServicer_to_server(origin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def running(origin: str, valkey: Backend, **environ: str) -> AsyncIterator[Cache]:
    """
    A cache in front of *origin*, composed as in production.
    """
    port = free_port()
    before = dict(os.environ)
    async with AsyncExitStack() as stack:
        os.environ.update(
            {
                "MODELYARD_REGISTRY_TARGET": origin,
                "MODELYARD_CDN_TARGET": "127.0.0.1:1",
                **valkey.environ(),
                "MODELYARD_LISTEN": f"127.0.0.1:{port}",
                # Generous, so that a slow machine does not look like a failure.
                "MODELYARD_VALKEY_TIMEOUT_SECONDS": "5",
                "MODELYARD_CACHE_LEASE_WAIT_SECONDS": "10",
                "MODELYARD_CACHE_STREAM_BOUND_SECONDS": "10",
                **environ,
            }
        )
        try:
            settings = load(CacheSettings)
            server = Server(settings, Metrics("services.cache", "grpcio"))
            await stack.enter_async_context(compose(server))
        finally:
            # Other processes that a test starts must not inherit these settings.
            os.environ.clear()
            os.environ.update(before)
        await stack.enter_async_context(server.ready())
        host = GrpcioHost(server.handlers, settings, server.recorders)
        await host.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Cache(channel, server.metrics.registry)
        finally:
            server.drain()
            await host.drain(2)


class SharedCaches:
    """
    Caches that the tests of a file share: one per backend and name.

    Args:
        origin: host:port of the origin behind them.
        environ: their settings.
    """

    def __init__(self, origin: str, **environ: str) -> None:
        self._origin = origin
        self._environ = environ
        self._caches: dict[tuple[Backend, str], Cache] = {}
        self._stack = AsyncExitStack()

    async def of(self, backend: Backend, name: str = "") -> Cache:
        """
        The cache on *backend*; with a name, another process of it.
        """
        if (backend, name) not in self._caches:
            started = await self._stack.enter_async_context(running(self._origin, backend, **self._environ))
            self._caches[backend, name] = started
        return self._caches[backend, name]

    async def close(self) -> None:
        """
        Stop them.
        """
        await self._stack.aclose()
