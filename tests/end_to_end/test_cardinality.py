"""
What callers name never becomes a name of a time series.
"""

from __future__ import annotations

import itertools
import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc

import modelyard
from embedded.stack import Stack
from modelyard.cache.v1 import cache_pb2
from modelyard.cache.v1.cache_pb2_grpc import KeyValueServiceStub
from modelyard.cdn.v1 import assets_pb2
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from modelyard.contracts import services
from modelyard.registry.v1 import models_pb2
from modelyard.registry.v1.models_pb2_grpc import ModelServiceStub
from services.chassis.observability.metrics import go_name

MARK = "zq9x"
CALLS = 40  # of each kind
ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("services", "gateway")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
#: Labels whose values are numbers; metrics, of which Envoy's have words, a method of the contracts or a status code.
_CODES = re.compile(r"[1-5](\d\d)?")
_BOUNDS = re.compile(r"[0-9.e+-]+|\+Inf")
_NUMBERS = {"le": _BOUNDS, "quantile": _BOUNDS, "envoy_response_code": _CODES, "envoy_response_code_class": _CODES}
_METHODS = "|".join(method.name for service in services() for method in service.methods)
_METRICS = re.compile(
    rf"(modelyard|grpc_server|process|python)_\w+|envoy_([a-z]+_)+([a-z]+|\d|1[0-6])|envoy_cluster_grpc_\w*({_METHODS})\w*"
)
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


def declared() -> set[str]:
    """
    The values that labels may take: what the sources name, the methods of the contracts, and status codes.
    """
    texts = [path.read_text() for folder in _SOURCES for path in (ROOT / folder).rglob("*.py")]
    found = {value for text in texts for value in re.findall(r"""["']([^"'\s]+)["']""", text)}
    for service in services():
        found |= {service.full_name, service.full_name.replace(".", "_"), *(method.name for method in service.methods)}
    return found | {go_name(code) for code in grpc.StatusCode}


def test_random_names_make_no_series(stack: Stack, yard: modelyard.Client) -> None:
    """
    Hundreds of calls with names that nobody has heard of make no metric and no value of a label, at the services and at
    the gateway. Other tests use the suite meanwhile: what is new by them consists of values that the sources name.
    """
    yard.models.ListModels(models_pb2.ListModelsRequest(parent="namespaces/default"))
    # Its own status codes and pages are no longer new.
    _load(stack, 8)
    series(stack)
    before = series(stack)
    _load(stack, CALLS)
    after = series(stack)
    assert not [each for each in after if MARK in each]
    known, allowed = _values(before), declared()
    new = {each for each in _values(after) - known if each[1] not in allowed}
    patterns = {"": _METRICS, **_NUMBERS}
    assert not {(label, value) for label, value in new if label not in patterns or not patterns[label].fullmatch(value)}


def _values(found: set[str]) -> set[tuple[str, str]]:
    """
    The labels of series with their values; the names of metrics with an empty label.
    """
    values: set[tuple[str, str]] = set()
    for each in found:
        _, _, one = each.partition(" ")
        name, _, labels = one.partition("{")
        values |= {("", name), *_LABEL.findall(labels)}
    return values
