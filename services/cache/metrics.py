"""
What the cache measures of itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# Writes to the shared level that wait; more are dropped, because the level may be slow and memory is not endless.
_MOST_BACKGROUND = 1000


@dataclass(slots=True)
class Counts:
    """
    What happened to the reads of one class.
    """

    near: int = 0
    shared: int = 0
    miss: int = 0
    bypass: int = 0
    loads: int = 0
    invalid: int = 0


class CacheMetrics(Collector):
    """
    Collects the counts when Prometheus asks, so that counting is adding to an integer.

    Attributes:
        gauges: further numbers by name and help, read when asked.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped = 0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def of(self, kind: str) -> Counts:
        """
        The counts of a class.
        """
        return self._counts.setdefault(kind, Counts())

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Do *work* while nobody waits for it; drop it when too much of it waits already.
        """
        if len(self._tasks) >= _MOST_BACKGROUND:
            self.dropped += 1
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """
        Wait for what is done in the background.
        """
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def collect(self) -> Iterator[Metric]:
        """
        For Prometheus.
        """
        reads = CounterMetricFamily(
            "modelyard_cache_reads",
            "Reads by what answered them: near, shared, miss, bypass",
            labels=["class", "result"],
        )
        loads = CounterMetricFamily("modelyard_cache_loads", "Calls of the origin after a miss", labels=["class"])
        invalid = CounterMetricFamily(
            "modelyard_cache_invalidated", "Entries found stale by revision", labels=["class"]
        )
        for kind, counts in self._counts.items():
            for result in ("near", "shared", "miss", "bypass"):
                reads.add_metric([kind, result], getattr(counts, result))
            loads.add_metric([kind], counts.loads)
            invalid.add_metric([kind], counts.invalid)
        yield from (reads, loads, invalid)
        yield CounterMetricFamily(
            "modelyard_cache_shared_dropped", "Writes to the shared level dropped", value=self.dropped
        )
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())
