"""
Metrics of the registry's background work.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.registry.store.cleanup import PurgeJob


class PurgeMetrics(Collector):
    """
    Collects the metrics of purging on each Prometheus scrape.
    """

    def __init__(self, sweeper: PurgeJob) -> None:
        self._sweeper = sweeper

    def collect(self) -> Iterator[Metric]:
        """
        The metrics, as Prometheus's client library collects them.
        """
        yield CounterMetricFamily(
            "modelyard_registry_purge_failures",
            "Deleted models that could not be purged in their turn.",
            value=self._sweeper.failures,
        )
