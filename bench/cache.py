"""
`make bench-cache`: what the cache costs and what it saves, each beside its floor, in one run.

(a) A hit in memory beside the same host answering a constant of equal size. (b) A hit in Valkey beside a bare redis-py
GET behind the same host. (c) Both of (a) through the gateway. (d) The hit rate of a Zipf(1.0) mix of reads with 5 %
writes over MODELS models. (e) 200 clients asking for one cold key. (f) How memory grows against the L1 cache's bound.
(g) How memory grows from the first 100,000 calls to the millionth, with cancelled calls among them.

One process each on the Envoy host; ROUNDS of SECONDS for (a) to (c), CALLS for (g).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import statistics
import sys
import time
import urllib.request
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from bench import ghz
from bench.form import Check, Report, Samples
from bench.grown import grown
from bench.population import NAMESPACE, draw
from embedded import suite
from embedded.parts import Part, free_port, socket_file
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey
from gateway.bucket import Bucket
from gateway.render import Addresses, descriptor_set
from modelyard.registry.v1 import models_pb2, models_pb2_grpc

MODELS = int(os.environ.get("MODELS", "100000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "4"))
CALLS = int(os.environ.get("CALLS", "1000000"))
PARENT = f"namespaces/{NAMESPACE}"
CALL = "modelyard.registry.v1.ModelService/GetModel"
HEALTH = "modelyard.cache.v1.CacheAdminService"
HOT = 1000
CONCURRENCY, CONNECTIONS = 64, 8
BOUND = 64 * 2**20
_PAIRS = (
    ("near hit", "constant", "a near hit over a constant"),
    ("shared hit", "redis-py GET", "a shared hit over a bare GET"),
    ("near hit, gateway", "constant, gateway", "a near hit over a constant, through the gateway"),
)


class Servers:
    """
    Everything that is measured, in processes of its own.

    Args:
        state: a folder for logs and files.
        postgres: the registry's database.
        host: what serves them.
    """

    def __init__(self, state: Path, postgres: Postgres, host: str = "envoy") -> None:
        self._state = state
        self._host = host
        self._supervisor = Supervisor(state / "log")
        self.valkey = Valkey(free_port(), 1 << 30)
        self._supervisor.start([self.valkey.part()])
        self.registry = self._service(
            "registry",
            "modelyard.registry.v1.ModelService",
            MODELYARD_DATABASE_URL=postgres.url(user=SERVICE_ROLE),
            MODELYARD_CDN_TARGET="127.0.0.1:1",
        )
        self._supervisor.start([self.registry.part()])

    def cache(self, name: str, prefix: str | None = None, **environment: str) -> suite.Service:
        """
        Start a cache, with keys of its own in Valkey unless a *prefix* is given.
        """
        service = self._service(
            "cache",
            HEALTH,
            MODELYARD_REGISTRY_TARGET=address(self.registry),
            MODELYARD_CDN_TARGET="127.0.0.1:1",
            MODELYARD_VALKEY_URL=self.valkey.url,
            MODELYARD_CACHE_PREFIX=prefix or name,
            **environment,
        )
        self._supervisor.start([replace(service.part(), name=name)])
        return service

    def plain(self, name: str, answer: bytes, **environment: str) -> suite.Service:
        """
        Start a service that answers with *answer*.
        """
        path = self._state / "answer.binpb"
        path.write_bytes(answer)
        service = self._service("cache", HEALTH, MODELYARD_PLAIN_ANSWER=str(path), **environment)
        self._supervisor.start([replace(service.part(), name=name, argv=[sys.executable, "-m", "bench.plain"])])
        return service

    def gateway(self, name: str, cache: suite.Service) -> str:
        """
        Start a gateway before *cache*: its address.
        """
        folder = self._state / name
        folder.mkdir()
        port = free_port()
        addresses = Addresses(
            listen=("127.0.0.1", port),
            admin=socket_file(folder, "admin.sock"),
            registry=self.registry.addresses,
            cache=cache.addresses,
            cdn=[("127.0.0.1", 1)],
            bucket=Bucket("none", endpoint="http://127.0.0.1:1"),
        )
        part: Part = suite.gateway(folder, addresses, lambda: suite.serving(f"127.0.0.1:{port}", self.registry.health))
        self._supervisor.start([replace(part, name=name, needs=())])
        return f"127.0.0.1:{port}"

    def kill(self, name: str) -> None:
        """
        End a part.
        """
        self._supervisor.kill(name)

    def stop(self) -> None:
        """
        End everything.
        """
        self._supervisor.stop()

    def _service(self, name: str, health: str, **environment: str) -> suite.Service:
        return suite.Service(
            name=name,
            health=health,
            needs=(),
            environment={"MODELYARD_LOG_LEVEL": "error", **environment},
            workers=1,
            host=self._host,
            port=suite.ports(1),
            metrics_port=suite.ports(1),
        )


def address(service: suite.Service) -> str:
    """
    Where its one process serves.
    """
    return f"127.0.0.1:{service.port}"


def figures(service: suite.Service) -> Counter[str]:
    """
    Its metrics by name and labels.
    """
    found: Counter[str] = Counter()
    with urllib.request.urlopen(service.metrics[0], timeout=10) as answer:  # noqa: S310 - our own, on loopback
        for line in answer.read().decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)  # type: ignore[assignment] # a Counter of floats
    return found


def loads(service: suite.Service) -> float:
    """
    GetModel calls that the registry has answered.
    """
    wanted = re.compile(r'^grpc_server_handled_total\{.*grpc_method="GetModel".*\}$')
    return sum(value for name, value in figures(service).items() if wanted.match(name))


def resident(service: suite.Service) -> float:
    """
    The process's memory in bytes.
    """
    return float(figures(service)["process_resident_memory_bytes"])


@dataclass(frozen=True, slots=True)
class Yard:
    """
    What the measurements use.

    Args:
        servers: the processes.
        names: of the models.
        protoset: the descriptors, for ghz.
        report: the results.
    """

    servers: Servers
    names: list[str]
    protoset: Path
    report: Report

    def load(self, target: str, names: list[str], seconds: float) -> ghz.Measured:
        """
        Read *names* in turn.
        """
        requests: list[Mapping[str, object]] = [{"name": name} for name in names]
        load = ghz.Load(CALL, requests, target, self.protoset, seconds, CONCURRENCY, CONNECTIONS)
        measured = ghz.run(load)
        if measured.failures:
            raise SystemExit(f"{target}: {measured.failures} calls failed: {dict(measured.codes)}")
        return measured


def compare(yard: Yard) -> None:
    """
    (a), (b) and (c): each hit beside its floor, in turns.
    """
    servers, hot = yard.servers, yard.names[:HOT]
    near = servers.cache("near")
    with grpc.insecure_channel(address(servers.registry)) as channel:
        stub: Any = models_pb2_grpc.ModelServiceStub(channel)
        answer = stub.GetModel(models_pb2.GetModelRequest(name=hot[0])).SerializeToString()
    constant = servers.plain("constant", answer)
    targets = {
        "near hit": address(near),
        "constant": address(constant),
        "shared hit": address(servers.cache("shared", MODELYARD_CACHE_NEAR_BYTES="0")),
        "redis-py GET": address(servers.plain("plain-redis", answer, MODELYARD_PLAIN_VALKEY=servers.valkey.url)),
        "near hit, gateway": servers.gateway("gateway-near", near),
        "constant, gateway": servers.gateway("gateway-constant", constant),
    }
    rounds: dict[str, list[ghz.Measured]] = {name: [] for name in targets}
    for number in range(ROUNDS + 1):
        for name in list(targets) if number % 2 else list(reversed(targets)):
            measured = yard.load(targets[name], hot, SECONDS)
            if number:  # round 0 warms up
                rounds[name].append(measured)
                print(
                    f"round {number}/{ROUNDS}  {name:<20} {measured.rate:>9,.0f} calls/s  p50 {measured.p50_ms:6.2f}"
                    f"  p99 {measured.p99_ms:6.2f} ms",
                    flush=True,
                )
    for name, measures in rounds.items():
        yard.report.add(
            name,
            {
                "calls/s": Samples(tuple(one.rate for one in measures)),
                "p50 ms": Samples(tuple(one.p50_ms for one in measures)),
                "p99 ms": Samples(tuple(one.p99_ms for one in measures)),
            },
        )
    for hit, floor, text in _PAIRS:
        pairs = zip(rounds[hit], rounds[floor], strict=True)
        ratios = Samples(tuple(one.rate / other.rate for one, other in pairs))
        yard.report.notes.append(f"{text}, by round: {ratios.spread}")
        yard.report.checks.append(Check(f"{text}, calls/s", ratios.median, 0.8, "x"))
    yard.report.notes.append(f"answers of {len(answer):,} bytes")
    for name in ("gateway-near", "gateway-constant", "constant", "plain-redis", "near", "shared"):
        servers.kill(name)


def zipf(count: int, generator: random.Random) -> Iterator[int]:
    """
    Numbers below *count*, the n-th with a probability of 1/n.
    """
    shares = list(itertools.accumulate(1 / (number + 1) for number in range(count)))
    while True:
        yield bisect(shares, generator.random() * shares[-1])


async def read_all(target: str, names: list[str]) -> None:
    """
    Read each of *names* once.
    """
    left = iter(names)
    done = 0

    async def work(stub: Any) -> None:
        nonlocal done
        for name in left:
            await stub.GetModel(models_pb2.GetModelRequest(name=name), timeout=30)
            done += 1
            if done % 20_000 == 0:
                print(f"   {done:>9,} of {len(names):,} models read", flush=True)

    async with grpc.aio.insecure_channel(target) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        await asyncio.gather(*(work(stub) for _ in range(32)))


async def mix(cache: str, registry: str, names: list[str], seconds: float) -> Counter[str]:
    """
    Reads of models through the cache and, one in twenty, a write of one: calls by what answered them.
    """
    generator = random.Random(5)
    drawn = zipf(len(names), generator)
    found: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def work(reads: Any, writes: Any) -> None:
        while time.monotonic() < ends:
            name = names[next(drawn)]
            if generator.random() < 0.05:
                model = models_pb2.Model(name=name, owner=f"owner {generator.random()}")
                request = models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=["owner"]))
                await writes.UpdateModel(request, timeout=10)
                found["write"] += 1
            else:
                call = reads.GetModel(models_pb2.GetModelRequest(name=name), timeout=10)
                await call
                found[dict(await call.trailing_metadata())["x-cache"]] += 1

    async with grpc.aio.insecure_channel(cache) as near, grpc.aio.insecure_channel(registry) as origin:
        stubs = models_pb2_grpc.ModelServiceStub(near), models_pb2_grpc.ModelServiceStub(origin)
        await asyncio.gather(*(work(*stubs) for _ in range(32)))
    return found


def hit_rate(yard: Yard) -> None:
    """
    (d): warm every model up, then read and write as a Zipf distribution has it.
    """
    cache = yard.servers.cache("zipf", MODELYARD_CACHE_NEAR_BYTES=str(512 * 2**20))
    asyncio.run(read_all(address(cache), yard.names))
    found = asyncio.run(mix(address(cache), address(yard.servers.registry), yard.names, 15 * SECONDS))
    reads = sum(found.values()) - found["write"]
    rate = (found["near"] + found["shared"]) / reads
    yard.report.notes.append(f"Zipf(1.0), 5 % writes, {len(yard.names):,} models: {dict(found)}")
    yard.report.checks.append(Check("hit rate of the mix", 100 * rate, 90, "%"))
    yard.servers.kill("zipf")


def stampede(yard: Yard) -> None:
    """
    (e): 200 clients of two processes ask for one key that nobody has.
    """
    caches = [yard.servers.cache(f"cold-{number}", prefix="cold") for number in (1, 2)]

    async def ask(name: str) -> None:
        channels = [grpc.aio.insecure_channel(address(cache)) for cache in caches]
        stubs: list[Any] = [models_pb2_grpc.ModelServiceStub(channel) for channel in channels]
        request = models_pb2.GetModelRequest(name=name)
        await asyncio.gather(*(stubs[number % 2].GetModel(request, timeout=10) for number in range(200)))
        for channel in channels:
            await channel.close(None)

    asyncio.run(ask(yard.names[-1]))
    counts = []
    for name in yard.names[-11:-1]:
        before = loads(yard.servers.registry)
        asyncio.run(ask(name))
        counts.append(loads(yard.servers.registry) - before)
    yard.report.notes.append(f"origin calls for a cold key that 200 clients ask for: {counts}")
    yard.report.checks.append(Check("origin calls for a cold key, worst of 10", max(counts), 1, "calls", "lower"))
    for number in (1, 2):
        yard.servers.kill(f"cold-{number}")


def memory(yard: Yard) -> None:
    """
    (f): fill the L1 cache several times over, and see how much the process has grown.
    """
    cache = yard.servers.cache("memory", MODELYARD_CACHE_NEAR_BYTES=str(BOUND))
    yard.load(address(cache), yard.names[:200], 3)
    before, held = resident(cache), figures(cache)["modelyard_cache_near_bytes"]
    asyncio.run(read_all(address(cache), yard.names[200:]))
    after = figures(cache)
    counted, grew = after["modelyard_cache_near_bytes"], after["process_resident_memory_bytes"] - before
    yard.report.notes.append(
        f"L1 cache of {BOUND >> 20} MiB: {counted / 2**20:.1f} MiB by its own count in "
        f"{after['modelyard_cache_near_entries']:,.0f} entries; resident memory grew by {grew / 2**20:.1f} MiB"
    )
    share = grew / (BOUND - held)
    yard.report.checks.append(Check("growth of memory over the L1 cache's bound", share, 1.1, "x", "lower"))
    yard.report.checks.append(Check("the same, from below", share, 0.9, "x"))
    yard.servers.kill("memory")


async def cancelled(target: str, names: list[str], count: int) -> int:
    """
    Calls that their callers give up at any point.
    """
    generator = random.Random(9)
    gone = 0
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = models_pb2_grpc.ModelServiceStub(channel)

        async def work() -> None:
            nonlocal gone
            for _ in range(count // 50):
                request = models_pb2.GetModelRequest(name=generator.choice(names))
                metadata = (("cache-control", "no-cache"),) if generator.random() < 0.3 else ()
                call = stub.GetModel(request, metadata=metadata, timeout=10)
                await asyncio.sleep(generator.uniform(0, 0.01))
                gone += call.cancel()

        await asyncio.gather(*(work() for _ in range(50)))
    return gone


def leaks(yard: Yard) -> None:
    """
    (g): memory after 100,000 calls and after CALLS, a tenth of them cancelled.
    """
    # Smaller than what is read, so that entries come and go.
    cache = yard.servers.cache("leaks", MODELYARD_CACHE_NEAR_BYTES=str(8 * 2**20))
    some = yard.names[:20_000]
    sizes: dict[int, float] = {}
    done = gone = 0
    for goal in (100_000, CALLS):
        while done < goal:
            gone += asyncio.run(cancelled(address(cache), some, 2000))
            done += 2000 + round(yard.load(address(cache), some, 3).rate * 3)
        sizes[goal] = statistics.median(resident(cache) for _ in range(5))
        print(f"{done:,} calls, {gone:,} of them cancelled: {sizes[goal] / 2**20:.1f} MiB", flush=True)
    ratio = sizes[CALLS] / sizes[100_000]
    yard.report.notes.append(f"{done:,} calls, {gone:,} of them cancelled before their answer")
    yard.report.checks.append(Check(f"memory after {CALLS:,} calls over after 100,000", ratio, 1.05, "x", "lower"))
    yard.servers.kill("leaks")


_PARTS = {"compare": compare, "hit-rate": hit_rate, "stampede": stampede, "memory": memory, "leaks": leaks}


@contextmanager
def yard(report: Report) -> Iterator[Yard]:
    """
    A registry with the models, and what is measured around it.
    """
    with scratch() as state, grown(MODELS, lambda text: print(text, flush=True)) as postgres:
        protoset = state / "contracts.binpb"
        protoset.write_bytes(descriptor_set())
        servers = Servers(state, postgres)
        try:
            yield Yard(servers, [f"{PARENT}/models/{each.model_id}" for each in draw(MODELS)], protoset, report)
        finally:
            servers.stop()


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when every target is reached.
    """
    report = Report("bench-cache", "make bench-cache")
    report.notes = [
        f"one process each on the Envoy host, {CONCURRENCY} calls in flight on {CONNECTIONS} connections, "
        f"{ROUNDS} rounds of {SECONDS:g} s",
        "client, caches, registry, Valkey and PostgreSQL share the machine's cores",
    ]
    with yard(report) as found:
        for name in os.environ.get("PARTS", ",".join(_PARTS)).split(","):
            _PARTS[name](found)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
