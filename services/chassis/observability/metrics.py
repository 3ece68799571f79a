"""
What a process measures of itself, and the page on which Prometheus reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import grpc
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.registry import Collector

from services.chassis.observability.gc_pauses import GcPauseCollector
from services.chassis.observability.histograms import BYTES, CALL_SECONDS, Histogram
from services.chassis.observability.probes import probed
from services.chassis.serving.background import standings
from services.chassis.serving.calls import Method
from services.chassis.serving.health import Health
from services.chassis.serving.tls import Identity
from services.chassis.settings import Address

_LABELS = ("grpc_type", "grpc_service", "grpc_method")


def go_name(code: grpc.StatusCode) -> str:
    """
    A code as grpc-go spells it, and with it every dashboard: OK, NotFound, Canceled.
    """
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


class MethodStats:
    """
    The numbers of one method, kept plain as those of `Histogram` are.

    Attributes:
        started: calls.
        codes: calls that have ended, by status.
        durations: of the calls that have ended, in seconds.
        received, sent: sizes of messages, in bytes.
    """

    __slots__ = ("codes", "durations", "received", "sent", "started")

    def __init__(self) -> None:
        self.started = 0
        self.received = Histogram(BYTES)
        self.sent = Histogram(BYTES)
        self.codes: dict[grpc.StatusCode, int] = {grpc.StatusCode.OK: 0}
        self.durations = Histogram(CALL_SECONDS)

    def handled(self, code: grpc.StatusCode, seconds: float) -> None:
        """
        Count a call that has ended.
        """
        self.codes[code] = self.codes.get(code, 0) + 1
        self.durations.observe(seconds)


class CallMetrics(Collector):
    """
    The standard metrics of a gRPC server (named as in go-grpc-prometheus).
    """

    def __init__(self) -> None:
        self._stats: dict[Method, MethodStats] = {}

    def of(self, method: Method) -> MethodStats:
        """
        The numbers of *method*, from zero on: ask once, when it is registered.
        """
        return self._stats.setdefault(method, MethodStats())

    def collect(self) -> Iterator[Metric]:
        """
        Everything as Prometheus wants it. Runs in the thread of the scrape, while calls go on.
        """
        started = CounterMetricFamily("grpc_server_started", "Calls started.", labels=_LABELS)
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received.", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent.", labels=_LABELS)
        handled = CounterMetricFamily("grpc_server_handled", "Calls ended.", labels=(*_LABELS, "grpc_code"))
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Seconds that calls took.", labels=_LABELS)
        running = GaugeMetricFamily("grpc_server_in_flight", "Calls that have not ended.", labels=_LABELS)
        taken = HistogramMetricFamily(
            "grpc_server_msg_received_bytes", "Bytes of messages received, uncompressed.", labels=_LABELS
        )
        given = HistogramMetricFamily(
            "grpc_server_msg_sent_bytes", "Bytes of messages sent, uncompressed.", labels=_LABELS
        )
        for method, stats in list(self._stats.items()):
            labels = (method.kind.value, method.service, method.name)
            # What has ended is read before what has started, or there could be fewer than none in flight.
            codes = dict(stats.codes)
            for code, count in codes.items():
                handled.add_metric((*labels, go_name(code)), count)
            begun = stats.started
            started.add_metric(labels, begun)
            running.add_metric(labels, begun - sum(codes.values()))
            for messages, sizes, counter in ((taken, stats.received, received), (given, stats.sent, sent)):
                buckets = sizes.buckets()
                messages.add_metric(labels, buckets=buckets, sum_value=sizes.total)
                counter.add_metric(labels, buckets[-1][1])
            seconds.add_metric(labels, buckets=stats.durations.buckets(), sum_value=stats.durations.total)
        yield from (started, handled, running, received, sent, taken, given, seconds)


class BackgroundMetrics(Collector):
    """
    The state of background tasks.
    """

    def collect(self) -> Iterator[Metric]:
        """
        For Prometheus. Runs in the thread of the scrape, while tasks go on.
        """
        failures = CounterMetricFamily(
            "modelyard_background_failures", "Failures of a background task.", labels=["task"]
        )
        succeeded = GaugeMetricFamily(
            "modelyard_background_last_success_timestamp_seconds",
            "Time of the last success of a background task, or of its start, in seconds since 1970.",
            labels=["task"],
        )
        for task, standing in list(standings().items()):
            failures.add_metric([task], standing.failures)
            succeeded.add_metric([task], standing.succeeded)
        yield from (failures, succeeded)


class Metrics:
    """
    The metrics registry of one process.

    Args:
        program: the name of what runs, "services.registry".
        host: what serves its calls, "envoy" or "grpcio".

    Attributes:
        registry: for metrics of a service's own.
        calls: for the metrics interceptor.
        dependency_up: 1 while a dependency answers its ping, by its name.
    """

    def __init__(self, program: str, host: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(GcPauseCollector())
        self.calls = CallMetrics()
        self.registry.register(self.calls)
        self.registry.register(BackgroundMetrics())
        build = Gauge(
            "modelyard_build_info", "Versions of the program and its libraries.", _BUILD, registry=self.registry
        )
        build.labels(program, host, installed("modelyard"), installed("grpcio")).set(1)
        self.dependency_up = Gauge(
            "modelyard_dependency_up", "Whether a dependency is available.", ["dependency"], registry=self.registry
        )
        self._lag = Gauge(
            "modelyard_event_loop_lag_seconds",
            "Maximum delay of the event loop in the last 30 seconds, caused by blocking code.",
            registry=self.registry,
        )

    async def watch_loop(self, every: float = 0.5) -> None:
        """
        Keep the lag of the event loop up to date. Runs until cancelled.
        """
        late: deque[float] = deque(maxlen=int(30 / every))
        while True:
            due = time.monotonic() + every
            await asyncio.sleep(every)
            late.append(max(time.monotonic() - due, 0.0))
            self._lag.set(max(late))

    def show_certificate(self, identity: Identity) -> None:
        """
        Show when the certificate of this process ends.
        """
        expires = Gauge(
            "modelyard_certificate_expiry_timestamp_seconds",
            "Expiry of the certificate of this process, in seconds since 1970.",
            registry=self.registry,
        )

        def ends() -> float:
            return identity.current().expires.timestamp()

        expires.set_function(ends)

    @contextmanager
    def serve(self, address: Address, health: Health | None = None) -> Iterator[None]:
        """
        Serve the page at http://address/metrics from a thread, which answers also while the event loop is blocked.

        Args:
            address: where.
            health: answers at /livez and /readyz, if given.

        Raises:
            OSError: the address is taken or not one of this machine's.
        """
        server, thread = start_http_server(address.port, address.host, self.registry)
        if health is not None and (metrics := server.get_app()) is not None:
            server.set_app(probed(metrics, health))
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


_BUILD = ["program", "host", "version", "grpcio"]


def installed(distribution: str) -> str:
    """
    The version of what is installed; "unknown" when it is not.
    """
    try:
        return version(distribution)
    except PackageNotFoundError:  # a checkout on PYTHONPATH, never installed
        return "unknown"
