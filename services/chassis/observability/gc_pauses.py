"""
The pauses of the garbage collector, as a metric.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_GENERATIONS = len(gc.get_threshold())


class GcPauseCollector(Collector):
    """
    Seconds spent in garbage collection, by generation, from `gc.callbacks` (https://docs.python.org/3/library/gc.html).
    How often it ran is `python_gc_collections_total`.
    """

    def __init__(self) -> None:
        self._seconds = [0.0] * _GENERATIONS
        self._began = 0.0
        gc.callbacks.append(self._called)

    def collect(self) -> Iterable[Metric]:
        """
        The counter.
        """
        found = CounterMetricFamily(
            "python_gc_pause_seconds", "Seconds spent in garbage collection.", labels=["generation"]
        )
        for generation, seconds in enumerate(self._seconds):
            found.add_metric([str(generation)], seconds)
        yield found

    def _called(self, phase: str, info: dict[str, Any]) -> None:
        # Nothing else runs between the two.
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._seconds[info["generation"]] += time.perf_counter() - self._began
