"""
The effect of a TTL on the hit rate: `python -m bench.ttl CLASS SECONDS…`, such as `python -m bench.ttl searches 5 60`.

It starts a suite, and for each TTL an empty cache. Then it reads KEYS different responses at a constant rate, with a
Zipf distribution, and prints where responses came from, according to the cache's metrics. Nothing is written: no TTL
can compensate for invalidation by writes.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import time
import urllib.request
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import modelyard
from embedded.parts import free_port
from embedded.scratch import scratch
from embedded.stack import Stack, StackSettings
from embedded.suite import Service
from embedded.supervisor import Supervisor
from modelyard.registry.v1 import models_pb2

_RESULTS = ("near", "shared", "miss")
_SKEW = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """
    The reads.

    Args:
        kind: the class of the contracts: models or searches.
        keys: the number of different responses.
        rate: reads per second.
        seconds: the duration.
        parent: the namespace of the models that are read.
    """

    kind: str
    keys: int
    rate: float
    seconds: float
    parent: str = "namespaces/default"


@dataclass(frozen=True, slots=True)
class Rates:
    """
    Where responses came from.

    Args:
        near, shared, miss: the number of reads.
    """

    near: int
    shared: int
    miss: int

    @property
    def hits(self) -> float:
        """
        The hit rate, as in `modelyard:cache_hits:ratio_rate5m`.
        """
        return (self.near + self.shared) / max(1, self.near + self.shared + self.miss)


def populate(yard: modelyard.Client, load: Load) -> None:
    """
    Create the models that are read.
    """
    for number in range(load.keys):
        model = models_pb2.Model(description=f"word{number}")
        yard.models.CreateModel(
            models_pb2.CreateModelRequest(parent=load.parent, model_id=f"ttl-{number}", model=model)
        )


def measure(stack: Stack, load: Load, ttl: float) -> Rates:
    """
    Start a further cache beside the suite's, empty and with a TTL, and read through it.

    Args:
        stack: a running suite, populated.
        ttl: in seconds.
    """
    settings = {
        f"MODELYARD_CACHE_TTL_{load.kind.upper()}_SECONDS": f"{ttl:g}",
        # With its own keys in Valkey and without warm-up it is empty.
        "MODELYARD_CACHE_PREFIX": f"ttl-{load.kind}-{ttl:g}-{time.time_ns()}",
        "MODELYARD_CACHE_WARM_KEYS": "0",
    }
    like = stack.services["cache"]
    cache = replace(
        like, environment={**like.environment, **settings}, instances=1, port=free_port(), metrics_port=free_port()
    )
    with scratch() as folder:
        supervisor = Supervisor(folder)
        try:
            supervisor.start([replace(cache.part(), needs=())])
            return _measure(cache, load)
        finally:
            supervisor.stop()


def _measure(cache: Service, load: Load) -> Rates:
    ((host, port),) = cache.addresses
    with modelyard.connect(f"{host}:{port}") as yard:
        _until_caching(yard, load)
        before = _counts(cache.metrics[0], load.kind)
        _read(_reader(yard, load), load)
        after = _counts(cache.metrics[0], load.kind)
    return Rates(*(after[result] - before[result] for result in _RESULTS))


def _reader(yard: modelyard.Client, load: Load) -> Callable[[int], object]:
    if load.kind == "models":
        return lambda key: yard.models.GetModel(models_pb2.GetModelRequest(name=f"{load.parent}/models/ttl-{key}"))
    return lambda key: yard.models.SearchModels(models_pb2.SearchModelsRequest(parent=load.parent, query=f"word{key}"))


def _read(reader: Callable[[int], object], load: Load) -> None:
    dice = random.Random(1)
    weights = list(itertools.accumulate((rank + 1) ** -_SKEW for rank in range(load.keys)))
    began, done = time.monotonic(), 0
    while (now := time.monotonic() - began) < load.seconds:
        if done < now * load.rate:
            reader(bisect(weights, dice.random() * weights[-1]))
            done += 1
        else:
            time.sleep(0.001)


def _until_caching(yard: modelyard.Client, load: Load) -> None:
    """
    Wait until the cache follows the registry's change stream, and so caches.
    """
    ends = time.monotonic() + 30
    request = models_pb2.GetModelRequest(name=f"{load.parent}/models/ttl-0")
    while True:
        _, call = yard.models.GetModel.with_call(request)
        if dict(call.trailing_metadata()).get("x-cache") == "near":
            return
        if time.monotonic() > ends:
            raise TimeoutError("the cache does not cache")
        time.sleep(0.05)


def _counts(page: str, kind: str) -> dict[str, int]:
    with urllib.request.urlopen(page, timeout=10) as answer:  # noqa: S310 - on loopback
        text = answer.read().decode()
    found = re.findall(rf'^modelyard_cache_reads_total{{class="{kind}",result="(\w+)"}} (\S+)$', text, re.MULTILINE)
    return dict.fromkeys(_RESULTS, 0) | {result: int(float(value)) for result, value in found}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.ttl", description=__doc__)
    parser.add_argument("kind", metavar="CLASS", choices=("models", "searches"), help="models or searches")
    parser.add_argument("ttl", metavar="SECONDS", type=float, nargs="+", help="TTLs, measured one after the other")
    parser.add_argument("--keys", type=int, default=500, help="number of different responses (500)")
    parser.add_argument("--rate", type=float, default=50, help="reads per second (50)")
    parser.add_argument("--for", dest="seconds", type=float, default=60, help="duration for each TTL in seconds (60)")
    found = parser.parse_args(argv)
    load = Load(found.kind, found.keys, found.rate, found.seconds)
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as stack:
        with modelyard.connect(stack.gateway) as yard:
            populate(yard, load)
        print(f"{load.kind}: {load.keys} keys, Zipf({_SKEW}), {load.rate:g} reads/s for {load.seconds:g} s")
        for ttl in found.ttl:
            rates = measure(stack, load, ttl)
            counts = f"near {rates.near:,}, shared {rates.shared:,}, miss {rates.miss:,}"
            print(f"TTL {ttl:g} s: {rates.hits:.1%} hits ({counts})", flush=True)
        stack.kill("s3")
    return 0


if __name__ == "__main__":
    sys.exit(main())
