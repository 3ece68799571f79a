"""
What Prometheus reads is what happened.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.chassis.errors import NotFound
from services.chassis.observability.metrics import CallMetrics, Metrics, go_name
from services.chassis.serving.context import Context
from services.chassis.settings import Address
from services.chassis.tests.in_process import (
    SERVICE,
    bidi,
    client_stream,
    eventually,
    failure,
    path,
    server_stream,
    unary,
    wired,
)


async def _echo(request: bytes, _context: Context) -> bytes:
    return request


async def _twice(request: bytes, _context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def _joined(requests: AsyncIterator[bytes], _context: Context) -> bytes:
    return b"".join([each async for each in requests])


async def _each(requests: AsyncIterator[bytes], _context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _missing(_request: bytes, _context: Context) -> bytes:
    raise NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m")


def _registry(calls: CallMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(calls)
    return registry


def _value(registry: CollectorRegistry, name: str, kind: str, method: str, **labels: str) -> float | None:
    labels |= {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": method}
    return registry.get_sample_value(f"grpc_server_{name}", labels)


async def test_calls_and_messages_are_counted_for_all_kinds() -> None:
    """
    The standard counters count each call once and each message of a stream once.
    """
    calls = CallMetrics()
    handlers: dict[str, Any] = {
        "A": unary(_echo),
        "B": server_stream(_twice),
        "C": client_stream(_joined),
        "D": bidi(_each),
    }
    async with wired(calls=calls, **handlers) as channel:
        await channel.unary_unary(path("A"))(b"")
        assert len([each async for each in channel.unary_stream(path("B"))(b"")]) == 2
        await channel.stream_unary(path("C"))(iter([b""] * 3))
        assert len([each async for each in channel.stream_stream(path("D"))(iter([b""] * 4))]) == 4
    registry = _registry(calls)
    expected = {
        ("unary", "A"): (1, 1),
        ("server_stream", "B"): (1, 2),
        ("client_stream", "C"): (3, 1),
        ("bidi_stream", "D"): (4, 4),
    }
    for (kind, method), (received, sent) in expected.items():
        assert _value(registry, "started_total", kind, method) == 1
        assert _value(registry, "handled_total", kind, method, grpc_code="OK") == 1
        assert _value(registry, "msg_received_total", kind, method) == received
        assert _value(registry, "msg_sent_total", kind, method) == sent
        assert _value(registry, "handling_seconds_count", kind, method) == 1


async def test_sizes_are_those_on_the_wire() -> None:
    """
    Each message falls into the bucket of its serialised size, whether it comes alone or in a stream.
    """
    calls = CallMetrics()
    async with wired(calls=calls, One=unary(_echo), Many=bidi(_each)) as channel:
        await channel.unary_unary(path("One"))(b"x" * 65)
        assert len([each async for each in channel.stream_stream(path("Many"))(iter([b"", b"x" * 70_000]))]) == 2
    registry = _registry(calls)
    for way in ("received", "sent"):
        assert _value(registry, f"msg_{way}_bytes_sum", "unary", "One") == 65
        assert _value(registry, f"msg_{way}_bytes_bucket", "unary", "One", le="64.0") == 0
        assert _value(registry, f"msg_{way}_bytes_bucket", "unary", "One", le="256.0") == 1
        assert _value(registry, f"msg_{way}_bytes_bucket", "bidi_stream", "Many", le="64.0") == 1
        assert _value(registry, f"msg_{way}_bytes_count", "bidi_stream", "Many") == 2


async def test_calls_in_flight_are_those_that_have_not_ended() -> None:
    """
    A call counts from its start until it has ended, however it ends.
    """
    calls, registry = (found := CallMetrics()), _registry(found)
    held = asyncio.Event()

    async def handler(request: bytes, _context: Context) -> bytes:
        await held.wait()
        if request:
            raise NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m")
        return request

    def in_flight() -> float | None:
        return _value(registry, "in_flight", "unary", "Do")

    async with wired(calls=calls, Do=unary(handler)) as channel:
        do = channel.unary_unary(path("Do"))
        good, bad, gone = do(b""), do(b"x"), do(b"")
        await eventually(lambda: in_flight() == 3)
        gone.cancel()
        await eventually(lambda: in_flight() == 2)
        held.set()
        await good
        await failure(bad)
        await eventually(lambda: in_flight() == 0)


async def test_failures_are_counted_by_their_code() -> None:
    """
    A failed call counts under the code that its client saw, spelt as in Go, and sends no message.
    """
    calls = CallMetrics()
    async with wired(Do=unary(_missing), calls=calls) as channel:
        await failure(channel.unary_unary(path("Do"))(b""))
    registry = _registry(calls)
    assert _value(registry, "handled_total", "unary", "Do", grpc_code="NotFound") == 1
    assert _value(registry, "handled_total", "unary", "Do", grpc_code="OK") == 0
    assert _value(registry, "msg_sent_total", "unary", "Do") == 0


async def test_cancelled_calls_are_counted_as_such() -> None:
    """
    A client that disconnects counts as Canceled, a deadline that passes as DeadlineExceeded.
    """
    calls = CallMetrics()

    async def handler(_request: bytes, _context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    registry = _registry(calls)

    def handled(code: str) -> float | None:
        return _value(registry, "handled_total", "unary", "Do", grpc_code=code)

    async with wired(Do=unary(handler), calls=calls) as channel:
        do = channel.unary_unary(path("Do"))
        assert (await failure(do(b"", timeout=0.1))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = do(b"")
        await eventually(lambda: _value(registry, "started_total", "unary", "Do") == 2)
        call.cancel()
        await eventually(lambda: handled("Canceled") and handled("DeadlineExceeded"))
    assert (handled("Canceled"), handled("DeadlineExceeded")) == (1, 1)


async def test_methods_are_there_before_their_first_call() -> None:
    """
    Registered methods start at zero, so that a rate over a new process is right from its first call on.
    """
    calls = CallMetrics()
    async with wired(Do=unary(_echo), calls=calls):
        pass
    assert _value(_registry(calls), "started_total", "unary", "Do") == 0


async def test_durations_fall_into_their_bucket() -> None:
    """
    Buckets are cumulative, end with all calls, and a call is in the first one that is not shorter than it.
    """
    calls = CallMetrics()

    async def handler(request: bytes, _context: Context) -> bytes:
        await asyncio.sleep(0.03)
        return request

    async with wired(Do=unary(handler), calls=calls) as channel:
        await channel.unary_unary(path("Do"))(b"")
    registry = _registry(calls)
    assert _value(registry, "handling_seconds_bucket", "unary", "Do", le="0.025") == 0
    assert _value(registry, "handling_seconds_bucket", "unary", "Do", le="60.0") == 1
    assert _value(registry, "handling_seconds_bucket", "unary", "Do", le="+Inf") == 1
    assert (_value(registry, "handling_seconds_sum", "unary", "Do") or 0) >= 0.03


def test_codes_are_spelt_as_in_go() -> None:
    """
    Dashboards match the names of grpc-go's codes.
    """
    numbered = {code.value[0]: go_name(code) for code in grpc.StatusCode}
    assert [numbered[number] for number in sorted(numbered)] == [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ]


def _free() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", probe.getsockname()[1])


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310 - our own page
        return str(page.read().decode())


async def test_the_page_is_read_by_prometheus() -> None:
    """
    /metrics parses as Prometheus text and holds the calls, the process, and what runs.
    """
    metrics = Metrics("services.test", "grpcio")
    address = _free()
    async with wired(Do=unary(_echo), calls=metrics.calls) as channel:
        await channel.unary_unary(path("Do"))(b"")
    with metrics.serve(address):
        page = await asyncio.to_thread(_fetched, f"http://{address}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families["grpc_server_handled"].type == "counter"
    assert families["grpc_server_handling_seconds"].type == "histogram"
    (build,) = families["modelyard_build_info"].samples
    assert (build.labels["program"], build.labels["host"]) == ("services.test", "grpcio")
    assert families["python_info"].samples
    assert families["modelyard_event_loop_lag_seconds"].samples


async def test_the_page_is_gone_when_its_process_is_done() -> None:
    """
    The port is free again after the block, and a port that is taken is an error at start.
    """
    address = _free()
    first, second = Metrics("services.first", "grpcio"), Metrics("services.second", "grpcio")
    with first.serve(address), pytest.raises(OSError, match=r"[Aa]ddress"), second.serve(address):
        pass
    with second.serve(address):
        assert "services.second" in await asyncio.to_thread(_fetched, f"http://{address}/metrics")


async def test_a_blocked_event_loop_shows() -> None:
    """
    The lag is about as long as something blocked the loop.
    """
    metrics = Metrics("services.test", "grpcio")
    watcher = asyncio.create_task(metrics.watch_loop(every=0.01))
    await asyncio.sleep(0.05)
    time.sleep(0.2)  # noqa: ASYNC251 - blocking is the point
    await asyncio.sleep(0.05)
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    assert (metrics.registry.get_sample_value("modelyard_event_loop_lag_seconds") or 0) >= 0.15


def test_the_garbage_collectors_pauses_are_counted() -> None:
    """
    What it takes is added up by generation, for as long as the process runs.
    """

    def seconds() -> dict[str, float]:
        (family,) = [each for each in metrics.registry.collect() if each.name == "python_gc_pause_seconds"]
        return {sample.labels["generation"]: sample.value for sample in family.samples}

    metrics = Metrics("services.probe", "grpcio")
    before = seconds()
    assert set(before) == {"0", "1", "2"}
    gc.collect(2)
    after = seconds()
    assert after["2"] > before["2"]
    assert after["1"] == before["1"]
