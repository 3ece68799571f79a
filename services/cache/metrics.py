"""
What the cache measures of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.chassis.observability.histograms import Histogram
from services.chassis.serving.background import Chores

# Writes to the shared level that wait; more are dropped, because the level may be slow and memory is not endless.
_MOST_BACKGROUND = 1000
_RESULTS = ("near", "shared", "miss", "bypass", "stale")


@dataclass(slots=True)
class Counts:
    """
    What happened to the reads of one class.
    """

    near: int = 0
    shared: int = 0
    miss: int = 0
    bypass: int = 0
    stale: int = 0
    absent: int = 0
    loads: int = 0
    waits: int = 0
    renewals: int = 0


@dataclass(frozen=True, slots=True)
class StreamStats:
    """
    Where a change stream stands.

    Args:
        age: seconds since it was last heard of.
        revision: the one applied last.
        breaks: streams that have ended.
        changes: that it has told.
        lag: from the commit of a revision to its arrival.
    """

    age: float
    revision: int
    breaks: int
    changes: int
    lag: Histogram


class CacheMetrics(Collector):
    """
    Collects the counts when Prometheus asks, so that counting is adding to an integer.

    Attributes:
        gauges: further numbers by name and help, read when asked.
        counters: as gauges, of what only grows.
        streams: of changes, by the service behind, read when asked.
        evictions: of the near level, by cause.
        namespaces: hits and misses of the key-value cache, by namespace.
        feeds: how old what is known of a namespace's changes is, of those that are followed.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._chores = Chores("write-shared-level")
        self.dropped = 0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self.streams: dict[str, Callable[[], StreamStats]] = {}
        self.evictions: Mapping[str, int] = {}
        self.namespaces: Mapping[str, Mapping[str, int]] = {}
        self.feeds: dict[str, Callable[[], float]] = {}

    def of(self, kind: str) -> Counts:
        """
        The counts of a class.
        """
        return self._counts.setdefault(kind, Counts())

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Do *work* while nobody waits for it; drop it when too much of it waits already.
        """
        if len(self._chores) >= _MOST_BACKGROUND:
            self.dropped += 1
            work.close()
            return
        self._chores.add(work)

    async def settle(self) -> None:
        """
        Wait for what is done in the background.
        """
        await self._chores.finish()

    def collect(self) -> Iterator[Metric]:
        """
        For Prometheus.
        """
        reads = CounterMetricFamily(
            "modelyard_cache_reads",
            "Reads by what they were on the way in: near, shared, miss, bypass; stale ones are counted again",
            labels=["class", "result"],
        )
        by_class = {
            name: CounterMetricFamily(f"modelyard_cache_{name}", text, labels=["class"])
            for name, text in (
                ("loads", "Calls of the origin"),
                ("waits", "Reads that waited for somebody else's load"),
                ("renewals", "Entries renewed before they expired"),
                ("absent", "Reads that were answered with a NOT_FOUND that was kept"),
            )
        }
        for kind, counts in self._counts.items():
            for result in _RESULTS:
                reads.add_metric([kind, result], getattr(counts, result))
            for name, family in by_class.items():
                family.add_metric([kind], getattr(counts, name))
        yield reads
        yield from by_class.values()
        yield from self._streams()
        evictions = CounterMetricFamily(
            "modelyard_cache_near_evictions", "Entries that left the near level", labels=["cause"]
        )
        for cause in ("size", "invalid", "expired", "cleared"):
            evictions.add_metric([cause], self.evictions.get(cause, 0))
        yield evictions
        values = CounterMetricFamily(
            "modelyard_cache_values", "Reads of the key-value cache", labels=["namespace", "result"]
        )
        for name, results in self.namespaces.items():
            for result in ("hit", "miss"):
                values.add_metric([name, result], results.get(result, 0))
        yield values
        ages = GaugeMetricFamily(
            "modelyard_cache_values_stream_age_seconds",
            "How old what is known of a namespace's changes is, of those that are kept in memory",
            labels=["namespace"],
        )
        for name, read in self.feeds.items():
            ages.add_metric([name], read())
        yield ages
        yield CounterMetricFamily(
            "modelyard_cache_shared_dropped", "Writes to the shared level dropped", value=self.dropped
        )
        for name, (text, read) in self.counters.items():
            yield CounterMetricFamily(name, text, value=read())
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())

    def _streams(self) -> Iterator[Metric]:
        stream = "modelyard_cache_stream"
        age = GaugeMetricFamily(
            f"{stream}_age_seconds",
            "Since the stream was last heard of: nothing served is staler than this and what is on its way",
            labels=["service"],
        )
        revision = GaugeMetricFamily(f"{stream}_revision", "The revision applied last", labels=["service"])
        breaks = CounterMetricFamily(f"{stream}_breaks", "Streams that have ended", labels=["service"])
        told = CounterMetricFamily(
            "modelyard_cache_invalidations", "Changes that the stream has told", labels=["service"]
        )
        lag = HistogramMetricFamily(
            "modelyard_change_stream_lag_seconds",
            "From the commit of a revision until the cache knows of it",
            labels=["service"],
        )
        for service, numbers in self.streams.items():
            now = numbers()
            age.add_metric([service], now.age)
            revision.add_metric([service], now.revision)
            breaks.add_metric([service], now.breaks)
            told.add_metric([service], now.changes)
            lag.add_metric([service], buckets=now.lag.buckets(), sum_value=now.lag.total)
        yield from (age, revision, breaks, told, lag)
