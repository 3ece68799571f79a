"""
`make bench-interceptors`: the processor time of a unary call in our own Python: the host's application with a made-up
`receive` and `send`, without and with what is done round every call, with a token to be checked, and with a permission.
Then that of a cached get in the cache, with a token, without and with a decision by the policies. No network, no Envoy,
no client: what is left moves little with what else the machine does, and the best round says most.

ROUNDS and CALLS (of each) can be set.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.form import Report, Samples
from modelyard.contracts import permissions
from modelyard.registry.v1 import models_pb2, models_pb2_grpc
from services.cache.metrics import CacheMetrics
from services.cache.model.coherence import Coherence
from services.cache.model.entries import Entry
from services.cache.model.hot_keys import HotKeys
from services.cache.model.l1 import L1Cache
from services.cache.read_through.handler import ReadThrough
from services.cache.read_through.loader import CacheLevels
from services.cache.read_through.origin import Answer, Origin
from services.cache.read_through.policies import policies as cache_policies
from services.cache.read_through.visibility import Visibility
from services.cache.store.l2 import L2Cache
from services.chassis.access import Access, AccessMode, Keys, Verifier
from services.chassis.access.policies import REGISTRY, Bindings, Policies
from services.chassis.access.roles import Role
from services.chassis.hosts.asgi import GrpcApp
from services.chassis.hosts.call_watcher import CallWatcher
from services.chassis.hosts.framing import frame
from services.chassis.interceptors import AccessInterceptor, PermissionInterceptor, standard
from services.chassis.interceptors.metrics import measured
from services.chassis.interceptors.permissions import VISIBILITY, VISIBLE
from services.chassis.observability.call_recorder import Recorders
from services.chassis.observability.metrics import CallMetrics
from services.chassis.serving.calls import Handler, Interceptor, Method, wrap_handler
from services.chassis.serving.server import collect
from tests.tokens import AUDIENCE, ISSUER, Issuer

ROUNDS = int(os.environ.get("ROUNDS", "7"))
CALLS = int(os.environ.get("CALLS", "20000"))
PATH = "/modelyard.registry.v1.ModelService/GetModel"
_MOST = 16 << 20


class EmptyModels(models_pb2_grpc.ModelServiceServicer):
    """
    Answers GetModel with an empty model.
    """

    async def GetModel(self, _request: models_pb2.GetModelRequest, _context: Any) -> models_pb2.Model:
        """
        Nothing.
        """
        return models_pb2.Model()


class EmptyOrigin:
    """
    What the cache loads an empty model from, once.
    """

    name, token = "registry", None

    def __init__(self, *trailing: tuple[str, str]) -> None:
        self._trailing = (("x-revision", "1"), *trailing)
        self.calls = 0

    async def call(self, *_args: object) -> Answer:
        """
        As the registry answers.
        """
        self.calls += 1
        return Answer(b"", self._trailing, 1, 0.0)


class NoSharedLevel:
    """
    In place of Valkey.
    """

    async def get(self, _key: bytes) -> Entry | None:
        """
        Nothing.
        """
        return None

    async def lease(self, _key: bytes, _token: str) -> tuple[bool | None, Entry | None]:
        """
        Nobody else loads.
        """
        return None, None

    async def put(self, *_args: object) -> None:
        """
        Nowhere.
        """


def cached(origin: EmptyOrigin, policies: Policies | None) -> Handler:
    """
    The cache's handler of GetModel.

    Args:
        origin: that it loads from.
        policies: that it decides by; None where it decides nothing.
    """
    policy = next(each for each in cache_policies() if each.path == PATH)
    coherence = Coherence(bound=float("inf"))
    coherence.heard(1, time.monotonic())
    shared = cast("L2Cache", NoSharedLevel())
    levels = CacheLevels(L1Cache(1 << 20), shared, {policy.kind: 1e6}, 1.0, 1.0, 1 << 20, 1.0, CacheMetrics())
    view = None if policies is None else Visibility(policy, permissions()[PATH], policies)
    read = ReadThrough(policy, cast("Origin", origin), coherence, levels, HotKeys(0), view)
    return read.handler()


def registry_policy() -> Policies:
    """
    Policies that let everybody read.
    """
    policies = Policies(bound=float("inf"))
    policies.apply({REGISTRY: Bindings({"everyone": Role.MAINTAINER})}, complete=True)
    policies.heard(1, time.monotonic())
    return policies


def app(
    loop: asyncio.AbstractEventLoop,
    interceptors: Sequence[Interceptor],
    *,
    sizes: bool,
    read: Handler | None = None,
) -> GrpcApp:
    """
    The application of a process that serves EmptyModels.

    Args:
        loop: that it runs on.
        interceptors: round every call.
        sizes: whether messages are measured.
        read: in place of GetModel.
    """
    calls = CallMetrics()
    recorders, handlers = Recorders(calls), {}
    for service, methods in collect(models_pb2_grpc.add_ModelServiceServicer_to_server, EmptyModels()).items():  # type: ignore[abstract]
        for name, handler in ({"GetModel": read} if read is not None else methods).items():
            method = Method.of(service, name, handler)
            recorders.of(method)
            wrapped = wrap_handler(handler, method, interceptors)
            handlers[method.path] = measured(wrapped, calls.of(method)) if sizes else wrapped
    return GrpcApp(handlers, _MOST, CallWatcher(loop), recorders)


def headers(token: str) -> list[tuple[bytes, bytes]]:
    """
    What comes with a call through the gateway.
    """
    return [
        (b"host", b"127.0.0.1:8080"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"grpc-python-asyncio/1.85.1 grpc-c/55.0.0 (linux; chttp2)"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"grpc-timeout", b"9999m"),
        (b"authorization", b"Bearer " + token.encode()),
        (b"x-forwarded-proto", b"http"),
        (b"x-request-id", b"c2f7e9b2-4f0d-4a8e-9a53-6d2f6f0f7a11"),
        # Not yet: it has not waited, and to write the time for each call would be measured, too.
        (b"x-modelyard-arrival", b"%.6f" % (time.time() + 3600)),
    ]


async def cost(serve: GrpcApp, sent: list[tuple[bytes, bytes]]) -> float:
    """
    Microseconds of processor time of a call, over `CALLS` of them.
    """
    loop = asyncio.get_running_loop()
    body = frame(models_pb2.GetModelRequest(name="namespaces/default/models/m").SerializeToString(), _MOST, "identity")
    event = {"type": "http.request", "body": body, "more_body": False}
    scope = {"type": "http", "method": "POST", "raw_path": PATH.encode(), "path": PATH, "query_string": b""}
    scope |= {"headers": sent, "client": ("127.0.0.1", 50000)}
    done: asyncio.Future[None] = loop.create_future()
    done.set_result(None)
    answered = 0

    def receive() -> asyncio.Future[Any]:
        found = loop.create_future()
        found.set_result(event)
        return found

    def send(sent_event: dict[str, Any]) -> Awaitable[None]:
        nonlocal answered
        answered += sent_event["type"] == "http.response.trailers"
        return done

    begun = time.process_time()
    for _ in range(CALLS):
        await serve(dict(scope), receive, send)
    taken = time.process_time() - begun
    if answered != CALLS:
        raise SystemExit(f"{CALLS - answered} calls failed")
    return taken / CALLS * 1e6


async def measure() -> int:
    """
    Every contender in turns.

    Returns:
        The exit code.
    """
    report = Report("bench-interceptors", "make bench-interceptors")
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as scratch:
        issuer = Issuer(Path(scratch) / "jwks.json")
        token = issuer.mint("registry.read")
        verifier = Verifier(Keys(file=issuer.file), ISSUER, AUDIENCE)
        guard = AccessInterceptor(Access(AccessMode.ON, verifier), {PATH: "registry.read"})
        policies, origins = registry_policy(), (EmptyOrigin(), EmptyOrigin((VISIBILITY, VISIBLE)))
        permitted = PermissionInterceptor(policies, permissions())
        contenders: dict[str, GrpcApp] = {
            "the host, which counts and logs": app(loop, (), sizes=False),
            "and message sizes": app(loop, (), sizes=True),
            "and the interceptors": app(loop, standard(), sizes=True),
            "and a token": app(loop, standard(access=guard), sizes=True),
            "and a permission": app(loop, standard(access=guard, permissions=permitted), sizes=True),
        }
        for name, origin, decided in zip(("a cached get", "and policies"), origins, (None, policies), strict=True):
            read = cached(origin, decided)
            contenders[name] = app(loop, standard(access=guard), sizes=True, read=read)
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(ROUNDS + 1):
            for name, serve in contenders.items():
                taken = await cost(serve, headers(token))
                if number:  # the first is to warm up
                    found[name].append(taken)
    if any(origin.calls != 1 for origin in origins):
        raise SystemExit(f"cached gets asked their origins {[origin.calls for origin in origins]} times, not once")
    for name, values in found.items():
        report.add(name, {"µs a call": Samples(tuple(values))})
    report.notes = [f"processor time, {ROUNDS} rounds of {CALLS} calls in one process; no network and no Envoy"]
    return report.close()


def main() -> int:
    """
    Measure and report.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())


if __name__ == "__main__":
    sys.exit(main())
