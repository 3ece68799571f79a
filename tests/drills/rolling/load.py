"""
Load on a suite that is being updated: calls of all kinds at a constant arrival rate (open loop).

The stubs are plain: there are no retries except those that gRPC makes by itself for calls that no server has processed.
There is one connection to each gateway, used in turns (`round_robin`).
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import itertools
import json
import random
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

import modelyard
from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc
from modelyard.changes.v1 import changes_pb2 as feed_pb2
from modelyard.registry.v1 import changes_pb2_grpc, models_pb2, models_pb2_grpc

PARENT = "namespaces/default"
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_TIMEOUT = 20.0

Call = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Outcome:
    """
    Results of the calls.

    Attributes:
        calls: finished calls, by kind.
        failed: each call that failed, and how.
        slowest: the longest call, in seconds.
        created: names of the models that were created.
        watched: changes that the watcher received, by resource.
        streams: how many streams the watcher has opened.
        retries: repeated creations, by reason.
    """

    calls: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    created: set[str] = field(default_factory=set)
    watched: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    retries: Counter[str] = field(default_factory=Counter)


class Load:
    """
    Calls through several gateways, made in a thread while the block lasts.

    Args:
        gateways: host:port of each.
        rate: calls per second.
        ca: the CA of the gateways' certificates; None means plain text.
        token: the bearer token; empty means none.
        without: kinds of calls that are not made.
        retried: reasons of ABORTED on which a creation is repeated; each is counted.

    Attributes:
        outcome: the results so far; complete after the block.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        rate: float,
        ca: Path | None = None,
        token: str = "",
        without: Collection[str] = (),
        retried: Collection[str] = (),
    ) -> None:
        self._without, self._retried = without, retried
        self._gateways, self._rate, self._ca = gateways, rate, ca
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._dice = random.Random(6)  # noqa: S311 - any order will do
        self._numbers = itertools.count()
        self._began = time.time_ns()
        self._head = self._revision = 0
        self._recent_models: deque[str] = deque(maxlen=50)
        self._in_flight = self._finished = 0
        self.outcome = Outcome()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_calls(self, count: int) -> None:
        """
        Wait until *count* further calls have started and finished.

        Raises:
            AssertionError: that takes longer than a minute, or the load has ended.
        """
        # Calls that are in flight now may finish first, and are not counted.
        wanted = self._finished + self._in_flight + count
        deadline = time.monotonic() + 60
        while self._finished < wanted:
            assert self._thread.is_alive(), self.outcome.failed
            assert time.monotonic() < deadline, f"{self._finished} calls of {wanted} have finished"
            time.sleep(0.02)

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:
            # Load that ended by itself proves nothing.
            self.outcome.failed.append(f"load: {error!r}")
            raise

    async def _run(self) -> None:
        target = "ipv4:" + ",".join(self._gateways)
        options: list[tuple[str, Any]] = [("grpc.service_config", _SERVICE_CONFIG), ("grpc.enable_http_proxy", 0)]
        if self._ca is None:
            # By default gRPC would send the whole list of addresses as the authority.
            options.append(("grpc.default_authority", "localhost"))
        async with self._channel(target, options) as channel:
            await self._use(channel)

    def _channel(self, target: str, options: list[tuple[str, Any]]) -> grpc.aio.Channel:
        interceptors: list[Any] = [kind(self._headers) for kind in _INTERCEPTORS] if self._headers else []
        if self._ca is None:
            return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
        secure = grpc.ssl_channel_credentials(self._ca.read_bytes())
        # The target is a list of addresses; the certificate has a name.
        named = [*options, ("grpc.ssl_target_name_override", "localhost")]
        return grpc.aio.secure_channel(target, secure, options=named, interceptors=interceptors)

    async def _use(self, channel: grpc.aio.Channel) -> None:
        models: Any = models_pb2_grpc.ModelServiceStub(channel)
        values: Any = cache_pb2_grpc.KeyValueServiceStub(channel)
        assets: Any = assets_pb2_grpc.AssetServiceStub(channel)
        await self._create(models)
        kinds: list[tuple[str, int, Call]] = [
            ("get", 40, lambda: self._get(models)),
            ("search", 15, lambda: self._search(models)),
            ("list", 5, lambda: self._list(models)),
            ("create", 10, lambda: self._create(models)),
            ("set", 10, lambda: self._set(values)),
            ("read", 10, lambda: self._read(values)),
            ("json", 8, self._json),
            ("asset", 2, lambda: self._asset(assets)),
        ]
        kinds = [kind for kind in kinds if kind[0] not in self._without]
        names, weights = [kind[0] for kind in kinds], [kind[1] for kind in kinds]
        calls = {name: call for name, _, call in kinds}
        watching = asyncio.create_task(asyncio.sleep(0) if "watch" in self._without else self._watch(channel))
        tasks: set[asyncio.Task[None]] = set()
        began, sent = time.monotonic(), 0
        while not self._stop.is_set():
            while sent < (time.monotonic() - began) * self._rate:
                (name,) = self._dice.choices(names, weights)
                task = asyncio.create_task(self._one(name, calls[name]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            # Until the next call is due, and briefly, because `_stop` may be set meanwhile.
            await asyncio.sleep(min(0.1, max(0.0, sent / self._rate - (time.monotonic() - began))))
        await asyncio.gather(*tasks)
        if "watch" not in self._without:
            await self._until_all_watched()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def _one(self, name: str, call: Call) -> None:
        began = time.monotonic()
        self._in_flight += 1
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            self.outcome.failed.append(f"{name}: {error.code().name} {error.details()}")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.outcome.failed.append(f"{name}: {error!r}")
        self.outcome.calls[name] += 1
        self._in_flight -= 1
        self._finished += 1
        self.outcome.slowest = max(self.outcome.slowest, time.monotonic() - began)

    def _recent_model(self) -> str:
        return self._dice.choice(self._recent_models)

    async def _get(self, models: Any) -> None:
        name = self._recent_model()
        seen = (("x-min-revision", str(self._revision)),)
        found = await models.GetModel(models_pb2.GetModelRequest(name=name), timeout=_TIMEOUT, metadata=seen)
        assert found.name == name

    async def _search(self, models: Any) -> None:
        request = models_pb2.SearchModelsRequest(parent=PARENT, query="rolling", page_size=5)
        await models.SearchModels(request, timeout=_TIMEOUT)

    async def _list(self, models: Any) -> None:
        await models.ListModels(models_pb2.ListModelsRequest(parent=PARENT, page_size=5), timeout=_TIMEOUT)

    async def _create(self, models: Any) -> None:
        number = next(self._numbers)
        model = models_pb2.Model(description="rolling update load")
        request = models_pb2.CreateModelRequest(parent=PARENT, model_id=f"r{self._began}-{number}", model=model)
        made = await self._with_retries(lambda: models.CreateModel(request, timeout=_TIMEOUT))
        self.outcome.created.add(made.name)
        self._recent_models.append(made.name)
        self._revision = max(self._revision, made.revision)
        self._head = min(self._head or made.revision - 1, made.revision - 1)

    async def _with_retries(self, call: Callable[[], Awaitable[Any]]) -> Any:
        ends = time.monotonic() + _TIMEOUT
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                problem = modelyard.explain(error)
                if error.code() is not grpc.StatusCode.ABORTED or problem.reason not in self._retried:
                    raise
                if time.monotonic() > ends:
                    raise
                self.outcome.retries[problem.reason] += 1
                await asyncio.sleep(0.2)

    async def _set(self, values: Any) -> None:
        entry = cache_pb2.Entry(key=f"k{self._dice.randrange(100)}", value=b"x" * 500)
        await values.Set(cache_pb2.SetRequest(namespace="shared", entry=entry), timeout=_TIMEOUT)

    async def _read(self, values: Any) -> None:
        try:
            await values.Get(cache_pb2.GetRequest(namespace="shared", key="k1"), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def _asset(self, assets: Any) -> None:
        data = f"{self._began} {next(self._numbers)}".encode() * 2000
        digest = hashlib.sha256(data).hexdigest()
        header = assets_pb2.UploadRequest.Header(sha256=digest, size_bytes=len(data), media_type="text/plain")
        chunk = assets_pb2.Chunk(data=data)
        parts = [assets_pb2.UploadRequest(header=header), assets_pb2.UploadRequest(chunk=chunk)]
        upload = assets.Upload(iter(parts), timeout=_TIMEOUT)
        await upload
        # Reads its own write: a replica might not have it yet.
        written = dict(await upload.trailing_metadata())["x-revision"]
        request, found = assets_pb2.DownloadRequest(name=f"assets/{digest}"), b""
        async for part in assets.Download(request, timeout=_TIMEOUT, metadata=(("x-min-revision", written),)):
            found += part.chunk.data
        assert found == data

    async def _json(self) -> None:
        await asyncio.to_thread(self._get_json, self._recent_model())

    def _get_json(self, name: str) -> None:
        # Like a browser: try the next address when the first one refuses the connection.
        for target in self._dice.sample(list(self._gateways), len(self._gateways)):
            connection = self._connection(target)
            try:
                connection.connect()
            except ConnectionRefusedError:
                continue
            seen = {"x-min-revision": str(self._revision)}
            connection.request("GET", f"/v1/{name}", headers={**seen, **self._headers})
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            assert answer.status == 200, f"{answer.status} {body[:200]!r}"
            return
        raise ConnectionRefusedError("no gateway listens")

    def _connection(self, target: str) -> http.client.HTTPConnection:
        if self._ca is None:
            return http.client.HTTPConnection(target, timeout=_TIMEOUT)
        return http.client.HTTPSConnection(
            target, timeout=_TIMEOUT, context=ssl.create_default_context(cafile=str(self._ca))
        )

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """
        Follow the change stream, and resume it whenever it ends.
        """
        stub: Any = changes_pb2_grpc.ChangeServiceStub(channel)
        seen = self._head
        while True:
            self.outcome.streams += 1
            try:
                async for answer in stub.WatchChanges(feed_pb2.WatchChangesRequest(start_revision=seen + 1)):
                    if answer.HasField("revision"):
                        seen = answer.revision.revision
                        self.outcome.watched.update(change.resource for change in answer.revision.changes)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.outcome.failed.append(f"watch: {error.code().name} {error.details()}")
                    return
            await asyncio.sleep(0.05)

    async def _until_all_watched(self) -> None:
        ends = time.monotonic() + 20
        while self.outcome.created - self.outcome.watched.keys() and time.monotonic() < ends:
            await asyncio.sleep(0.05)


class _HeaderInterceptor:
    """
    Adds headers to every call.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def _send(self, proceed: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._headers.items())
        others = (details.credentials, details.wait_for_ready)
        return await proceed(grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, *others), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _send


# grpcio accepts an interceptor for one kind of call only.
_INTERCEPTORS = [
    type("HeaderInterceptor", (_HeaderInterceptor, kind), {})
    for kind in (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
]
