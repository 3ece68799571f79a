"""
What the registry measures of what it does by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.registry.store.cleanup import PurgeJob


class PurgeMetrics(Collector):
    """
    Collects how purging goes when Prometheus asks.
    """

    def __init__(self, sweeper: PurgeJob) -> None:
        self._sweeper = sweeper

    def collect(self) -> Iterator[Metric]:
        """
        For Prometheus.
        """
        yield CounterMetricFamily(
            "modelyard_registry_purge_failures",
            "Deleted models that could not be purged in their turn.",
            value=self._sweeper.failures,
        )
