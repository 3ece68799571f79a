"""
Metrics of an HTTP server, named after the semantic conventions of OpenTelemetry
(https://opentelemetry.io/docs/specs/semconv/http/http-metrics/).
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.chassis.observability.histograms import CALL_SECONDS, Histogram

_LABELS = ("http_route", "http_request_method")
# Every other method is counted under one name: clients could make up names, and each would be a series.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "_OTHER"


class RouteStats:
    """
    The numbers of one method of one route.

    Attributes:
        started: requests.
        statuses: requests that have ended, by status.
        durations: of requests that have ended, in seconds.
        sent: bytes of response bodies.
    """

    __slots__ = ("durations", "sent", "started", "statuses")

    def __init__(self) -> None:
        self.started = 0
        self.statuses: dict[int, int] = {}
        self.durations = Histogram(CALL_SECONDS)
        self.sent = 0


class HttpMetrics(Collector):
    """
    The metrics of all routes. A route is its name in the program, never a path: paths hold names of resources.
    """

    def __init__(self) -> None:
        self._stats: dict[tuple[str, str], RouteStats] = {}

    def of(self, route: str, method: str) -> RouteStats:
        """
        The numbers of a method of a route.
        """
        key = (route, method if method in _METHODS else OTHER_METHOD)
        found = self._stats.get(key)
        if found is None:
            found = self._stats[key] = RouteStats()
        return found

    def collect(self) -> Iterator[Metric]:
        """
        Everything as Prometheus wants it. Runs in the thread of the scrape, while requests go on.
        """
        ended = CounterMetricFamily(
            "http_server_requests", "Requests that have ended.", labels=(*_LABELS, "http_response_status_code")
        )
        seconds = HistogramMetricFamily(
            "http_server_request_duration_seconds", "Seconds that requests took.", labels=_LABELS
        )
        active = GaugeMetricFamily("http_server_active_requests", "Requests that have not ended.", labels=_LABELS)
        sent = CounterMetricFamily("http_server_response_body_bytes", "Bytes of response bodies.", labels=_LABELS)
        for labels, stats in list(self._stats.items()):
            statuses = dict(stats.statuses)
            for status, count in statuses.items():
                ended.add_metric((*labels, str(status)), count)
            seconds.add_metric(labels, buckets=stats.durations.buckets(), sum_value=stats.durations.total)
            active.add_metric(labels, stats.started - sum(statuses.values()))
            sent.add_metric(labels, stats.sent)
        yield from (ended, seconds, active, sent)
