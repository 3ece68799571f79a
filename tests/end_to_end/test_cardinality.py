"""
What callers name never becomes a name of a time series.
"""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

import modelyard
from embedded.stack import Stack
from modelyard.cache.v1 import cache_pb2
from modelyard.cache.v1.cache_pb2_grpc import KeyValueServiceStub
from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from modelyard.registry.v1 import models_pb2
from modelyard.registry.v1.models_pb2_grpc import ModelServiceStub

MARK = "zq9x"
CALLS = 240  # of each kind
ROUNDS = 4
_numbers = itertools.count(10**9)


def series(stack: Stack) -> set[str]:
    """
    The time series of all services and of the gateway, without their values.
    """
    pages = [page for service in stack.services.values() for page in service.metrics]
    pages.append(stack.gateway_metrics)
    found = set()
    for page in pages:
        with urllib.request.urlopen(page, timeout=30) as answer:  # noqa: S310 - our own page
            lines = answer.read().decode().splitlines()
        found |= {f"{page} {line.rpartition(' ')[0]}" for line in lines if line and not line.startswith("#")}
    return found


def hostile(channel: grpc.Channel) -> Iterator[Callable[[], object]]:
    """
    Calls that name what nobody has heard of: methods, services, models, assets, namespaces, keys.
    """

    def word() -> str:
        return f"{MARK}{next(_numbers)}"

    def raw(path: str) -> None:
        channel.unary_unary(path, request_serializer=None, response_deserializer=None)(
            b"", timeout=10, metadata=(("x-request-id", word()), ("traceparent", word()), (f"x-{word()}", word()))
        )

    models, assets, values = ModelServiceStub(channel), AssetServiceStub(channel), KeyValueServiceStub(channel)
    yield lambda: raw(f"/modelyard.registry.v1.ModelService/{word()}")
    yield lambda: raw(f"/modelyard.registry.v1.{word()}/Get")
    yield lambda: raw(f"/{word()}/{word()}")
    yield lambda: models.GetModel(models_pb2.GetModelRequest(name=f"namespaces/{word()}/models/{word()}"), timeout=10)
    yield lambda: models.SearchModels(
        models_pb2.SearchModelsRequest(parent="namespaces/default", query=word(), filter=f'labels.{word()} = "x"'),
        timeout=10,
    )
    yield lambda: assets.GetAsset(assets_pb2.GetAssetRequest(name=f"assets/{next(_numbers):064x}"), timeout=10)
    yield lambda: values.Get(cache_pb2.GetRequest(namespace=word(), key=word()), timeout=10)
    yield lambda: values.Get(cache_pb2.GetRequest(namespace="shared", key=word()), timeout=10)


def _call(make: Callable[[], object]) -> None:
    with suppress(grpc.RpcError):
        make()


def _load(stack: Stack, count: int) -> None:
    targets = [stack.gateway, *(f"{host}:{port}" for one in stack.services.values() for host, port in one.addresses)]
    channels = [grpc.insecure_channel(target) for target in targets]
    with ThreadPoolExecutor(16) as threads:
        for channel in channels:
            for kind in hostile(channel):
                list(threads.map(_call, [kind] * (count // len(channels))))
    for channel in channels:
        channel.close()


def test_random_names_make_no_series(stack: Stack, yard: modelyard.Client) -> None:
    """
    Thousands of calls with names that nobody has heard of leave as many series as a few of them, at the services and
    at the gateway.
    """
    yard.models.ListModels(models_pb2.ListModelsRequest(parent="namespaces/default"))
    _load(stack, 8)
    # Reading the pages makes series, too, from the second time on.
    series(stack)
    more: set[str] = set()
    for _ in range(ROUNDS):
        before = series(stack)
        _load(stack, CALLS)
        after = series(stack)
        assert not [each for each in after if MARK in each]
        # A statement of a task in the background, whose name is in the code, may be run for the first time meanwhile.
        more = {each for each in after - before if " modelyard_database_query_" not in each}
        # A code that a method has not answered with before. Other tests use the suite, too, and what they are the first
        # to do makes series: in some rounds, and names that become series do so in each.
        if len(more) <= 30:
            return
    raise AssertionError(sorted(more))
