"""
Clients of a suite that rolls: so many calls a second of all kinds, whatever becomes of the ones before (open loop).

The stubs are plain: no retries but those that gRPC makes by itself for calls that no server has seen, and a connection
to each gateway, in turns (`round_robin`).
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
    What became of the calls.
    """

    made: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    created: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    retries: Counter[str] = field(default_factory=Counter)


class Load:
    """
    Calls through several gateways, in a thread of its own.

    Args:
        gateways: host:port of each.
        rate: calls a second.
        ca: of the gateways' certificates; None means plain text.
        token: to show; empty means none.
        without: kinds of calls that are not made.
        retried: reasons of ABORTED on which a creation is repeated, as the error asks for; each is counted.
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
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self._dice = random.Random(6)  # noqa: S311 - any order will do
        self._numbers = itertools.count()
        self._began = time.time_ns()
        self._head = self._newest = 0
        self._newest_names: deque[str] = deque(maxlen=50)
        self.outcome = Outcome()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _go(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:
            # Load that ends by itself is no load under which nothing failed.
            self.outcome.failed.append(f"load: {error!r}")
            raise

    async def _run(self) -> None:
        target = "ipv4:" + ",".join(self._gateways)
        options: list[tuple[str, Any]] = [("grpc.service_config", _SERVICE_CONFIG), ("grpc.enable_http_proxy", 0)]
        if self._ca is None:
            # gRPC would call the gateways by the whole list, which is no name of theirs.
            options.append(("grpc.default_authority", "localhost"))
        async with self._channel(target, options) as channel:
            await self._use(channel)

    def _channel(self, target: str, options: list[tuple[str, Any]]) -> grpc.aio.Channel:
        shown: list[Any] = [kind(self._headers) for kind in _SHOWN] if self._headers else []
        if self._ca is None:
            return grpc.aio.insecure_channel(target, options=options, interceptors=shown)
        secure = grpc.ssl_channel_credentials(self._ca.read_bytes())
        # The target is a list of addresses, of which none is the name that the certificate is compared with.
        named = [*options, ("grpc.ssl_target_name_override", "localhost")]
        return grpc.aio.secure_channel(target, secure, options=named, interceptors=shown)

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
        under_way: set[asyncio.Task[None]] = set()
        began, sent = time.monotonic(), 0
        while not self._enough.is_set():
            while sent < (time.monotonic() - began) * self._rate:
                (name,) = self._dice.choices(names, weights)
                task = asyncio.create_task(self._one(name, calls[name]))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                sent += 1
            # Until the next call is due; `_enough` may be set meanwhile, so not for long.
            await asyncio.sleep(min(0.1, max(0.0, sent / self._rate - (time.monotonic() - began))))
        await asyncio.gather(*under_way)
        if "watch" not in self._without:
            await self._all_told()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def _one(self, name: str, call: Call) -> None:
        began = time.monotonic()
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            self.outcome.failed.append(f"{name}: {error.code().name} {error.details()}")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.outcome.failed.append(f"{name}: {error!r}")
        self.outcome.made[name] += 1
        self.outcome.slowest = max(self.outcome.slowest, time.monotonic() - began)

    def _some(self) -> str:
        return self._dice.choice(self._newest_names)

    async def _get(self, models: Any) -> None:
        name = self._some()
        seen = (("x-min-revision", str(self._newest)),)
        found = await models.GetModel(models_pb2.GetModelRequest(name=name), timeout=_TIMEOUT, metadata=seen)
        assert found.name == name

    async def _search(self, models: Any) -> None:
        request = models_pb2.SearchModelsRequest(parent=PARENT, query="rolling", page_size=5)
        await models.SearchModels(request, timeout=_TIMEOUT)

    async def _list(self, models: Any) -> None:
        await models.ListModels(models_pb2.ListModelsRequest(parent=PARENT, page_size=5), timeout=_TIMEOUT)

    async def _create(self, models: Any) -> None:
        number = next(self._numbers)
        model = models_pb2.Model(description="rolling along")
        request = models_pb2.CreateModelRequest(parent=PARENT, model_id=f"r{self._began}-{number}", model=model)
        made = await self._repeated(lambda: models.CreateModel(request, timeout=_TIMEOUT))
        self.outcome.created.add(made.name)
        self._newest_names.append(made.name)
        self._newest = max(self._newest, made.revision)
        self._head = min(self._head or made.revision - 1, made.revision - 1)

    async def _repeated(self, call: Callable[[], Awaitable[Any]]) -> Any:
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
        # Whoever reads what it has written says so: it might be asked of a replica that does not have it yet.
        written = dict(await upload.trailing_metadata())["x-revision"]
        request, found = assets_pb2.DownloadRequest(name=f"assets/{digest}"), b""
        async for part in assets.Download(request, timeout=_TIMEOUT, metadata=(("x-min-revision", written),)):
            found += part.chunk.data
        assert found == data

    async def _json(self) -> None:
        await asyncio.to_thread(self._get_json, self._some())

    def _get_json(self, name: str) -> None:
        # As a browser does it: the next address when nobody listens at the first one.
        for target in self._dice.sample(list(self._gateways), len(self._gateways)):
            connection = self._connection(target)
            try:
                connection.connect()
            except ConnectionRefusedError:
                continue
            seen = {"x-min-revision": str(self._newest)}
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
        Follow the changes, from where it was whenever the stream ends.
        """
        stub: Any = changes_pb2_grpc.ChangeServiceStub(channel)
        seen = self._head
        while True:
            self.outcome.streams += 1
            try:
                async for answer in stub.WatchChanges(feed_pb2.WatchChangesRequest(start_revision=seen + 1)):
                    if answer.HasField("revision"):
                        seen = answer.revision.revision
                        self.outcome.told.update(change.resource for change in answer.revision.changes)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.outcome.failed.append(f"watch: {error.code().name} {error.details()}")
                    return
            await asyncio.sleep(0.05)

    async def _all_told(self) -> None:
        ends = time.monotonic() + 20
        while self.outcome.created - self.outcome.told.keys() and time.monotonic() < ends:
            await asyncio.sleep(0.05)


class _Shown:
    """
    Adds headers to every call.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def _send(self, go_on: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        shown = grpc.aio.Metadata(*(details.metadata or ()), *self._headers.items())
        others = (details.credentials, details.wait_for_ready)
        return await go_on(grpc.aio.ClientCallDetails(details.method, details.timeout, shown, *others), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _send


# gRPC takes an interceptor for one kind of call only.
_SHOWN = [
    type("Shown", (_Shown, kind), {})
    for kind in (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
]
