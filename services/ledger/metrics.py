"""
Database metrics of a service.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ledger.store.database import Database
from services.ledger.store.retries import Cause

_DATABASE = "modelyard_database"
_QUERY = f"{_DATABASE}_query"
_POOL = f"{_DATABASE}_pool"
_REPLICA = f"{_DATABASE}_replica"


class DatabaseMetrics(Collector):
    """
    Collects metrics of statements (by name), pools, replicas and retried writes on each Prometheus scrape.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """
        The metrics, as Prometheus's client library collects them.
        """
        yield from self._queries()
        yield from self._pools()
        yield from self._replicas()
        yield self._retries()

    def _queries(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(f"{_QUERY}_seconds", "How long statements took.", labels=["statement"])
        rows = CounterMetricFamily(f"{_QUERY}_rows", "Rows that statements returned.", labels=["statement"])
        errors = CounterMetricFamily(f"{_QUERY}_errors", "Statements that failed.", labels=["statement", "error"])
        for name, stats in self._database.primary.queries.items():
            seconds.add_metric([name], buckets=stats.durations.buckets(), sum_value=stats.durations.total)
            rows.add_metric([name], stats.rows)
            for error, count in list(stats.errors.items()):
                errors.add_metric([name, error], count)
        yield from (seconds, rows, errors)

    def _pools(self) -> Iterator[Metric]:
        open_ = GaugeMetricFamily(f"{_POOL}_connections", "Open connections.", labels=["server"])
        idle = GaugeMetricFamily(f"{_POOL}_idle", "Idle connections.", labels=["server"])
        most = GaugeMetricFamily(f"{_POOL}_most", "Connections that there may be.", labels=["server"])
        waiting = GaugeMetricFamily(f"{_POOL}_waiting", "Calls that wait for a connection.", labels=["server"])
        for server in (self._database.primary, *(replica.server for replica in self._database.replicas.all)):
            pool = server.pool
            open_.add_metric([server.name], pool.size)
            idle.add_metric([server.name], pool.idle)
            most.add_metric([server.name], pool.most)
            waiting.add_metric([server.name], pool.waiting)
        yield from (open_, idle, most, waiting)

    def _retries(self) -> Metric:
        retries = CounterMetricFamily(f"{_DATABASE}_write_retries", "Writes that were done again.", labels=["cause"])
        for cause in Cause:
            retries.add_metric([cause.value], self._database.retries.counts[cause])
        return retries

    def _replicas(self) -> Iterator[Metric]:
        serving = GaugeMetricFamily(f"{_REPLICA}_serving", "1 while reads may go to it.", labels=["server"])
        applied = GaugeMetricFamily(f"{_REPLICA}_revision", "The revision that it has applied.", labels=["server"])
        lag = GaugeMetricFamily(f"{_REPLICA}_lag_seconds", "How far it may be behind the primary.", labels=["server"])
        for replica in self._database.replicas.all:
            name = [replica.server.name]
            serving.add_metric(name, replica.serving)
            applied.add_metric(name, replica.applied)
            lag.add_metric(name, replica.lag)
        yield from (serving, applied, lag)
