"""
The Prometheus metrics of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.chassis.observability.histograms import Histogram
from services.chassis.serving.background import Chores

# Pending writes to L2; more are dropped, so that a slow Valkey cannot exhaust the memory of the process.
_MOST_BACKGROUND = 1000
_RESULTS = ("near", "shared", "miss", "bypass", "stale")


@dataclass(slots=True)
class Counts:
    """
    Counters of the reads of one class.
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
    The state of a change stream.

    Args:
        age: seconds since the moment up to which it is known to be complete.
        revision: the last one applied.
        breaks: streams that have ended.
        changes: resource changes received.
        lag: seconds from the commit of a revision to its arrival.
    """

    age: float
    revision: int
    breaks: int
    changes: int
    lag: Histogram


class CacheMetrics(Collector):
    """
    Builds the metrics when Prometheus scrapes, so that counting costs one integer addition.

    Attributes:
        gauges: further gauges by name, with help text and a function that reads the value.
        counters: further counters, in the same form.
        streams: functions that read the state of each change stream, by origin.
        evictions: L1 evictions by cause.
        namespaces: hits and misses of the key-value cache, by namespace.
        feeds: functions that read the age of each followed namespace's invalidation feed.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._background = Chores("write-shared-level")
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
        Run *work* in the background; drop it when too much is pending.
        """
        if len(self._background) >= _MOST_BACKGROUND:
            self.dropped += 1
            work.close()
            return
        self._background.add(work)

    async def settle(self) -> None:
        """
        Wait for the background work to finish.
        """
        await self._background.finish()

    def collect(self) -> Iterator[Metric]:
        """
        All metrics, for a scrape.
        """
        reads = CounterMetricFamily(
            "modelyard_cache_reads",
            "Reads by outcome: near (L1), shared (L2), miss, bypass; reads answered stale are counted again as stale",
            labels=["class", "result"],
        )
        by_class = {
            name: CounterMetricFamily(f"modelyard_cache_{name}", text, labels=["class"])
            for name, text in (
                ("loads", "Calls to the origin"),
                ("waits", "Reads that joined a load in progress"),
                ("renewals", "Entries refreshed before they expired"),
                ("absent", "Reads answered with a cached NOT_FOUND"),
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
        evictions = CounterMetricFamily("modelyard_cache_near_evictions", "Entries removed from L1", labels=["cause"])
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
            "Age of the invalidation feed of a namespace that is cached in L1",
            labels=["namespace"],
        )
        for name, read in self.feeds.items():
            ages.add_metric([name], read())
        yield ages
        yield CounterMetricFamily(
            "modelyard_cache_shared_dropped", "Writes to L2 that were dropped", value=self.dropped
        )
        for name, (text, read) in self.counters.items():
            yield CounterMetricFamily(name, text, value=read())
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())

    def _streams(self) -> Iterator[Metric]:
        stream = "modelyard_cache_stream"
        age = GaugeMetricFamily(
            f"{stream}_age_seconds",
            "Age of the change stream: answers are stale by at most this plus the propagation delay",
            labels=["service"],
        )
        revision = GaugeMetricFamily(f"{stream}_revision", "Last revision applied", labels=["service"])
        breaks = CounterMetricFamily(f"{stream}_breaks", "Streams that have ended", labels=["service"])
        invalidations = CounterMetricFamily(
            "modelyard_cache_invalidations", "Changes received from the stream", labels=["service"]
        )
        lag = HistogramMetricFamily(
            "modelyard_change_stream_lag_seconds",
            "Seconds from the commit of a revision until the cache has applied it",
            labels=["service"],
        )
        for service, numbers in self.streams.items():
            now = numbers()
            age.add_metric([service], now.age)
            revision.add_metric([service], now.revision)
            breaks.add_metric([service], now.breaks)
            invalidations.add_metric([service], now.changes)
            lag.add_metric([service], buckets=now.lag.buckets(), sum_value=now.lag.total)
        yield from (age, revision, breaks, invalidations, lag)
