"""
Prometheus metrics of S3 requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.cdn.store.objects.traffic import Traffic


class StoreMetrics(Collector):
    """
    Exports the request metrics.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        """
        For Prometheus.
        """
        calls = CounterMetricFamily(
            "modelyard_s3_calls", "Calls of S3 by operation and outcome.", labels=["operation", "outcome"]
        )
        for (operation, outcome), count in self._traffic.calls().items():
            calls.add_metric([operation, outcome], count)
        seconds = HistogramMetricFamily(
            "modelyard_s3_call_seconds",
            "Duration of S3 calls in seconds; downloads are measured to the first byte.",
            labels=["operation"],
        )
        for operation, (buckets, total) in self._traffic.durations().items():
            seconds.add_metric([operation], buckets=buckets, sum_value=total)
        moved = CounterMetricFamily(
            "modelyard_s3_bytes", "Bytes of objects sent to and received from S3.", labels=["operation", "direction"]
        )
        for (operation, direction), count in self._traffic.bytes().items():
            moved.add_metric([operation, direction], count)
        yield from (calls, seconds, moved)
