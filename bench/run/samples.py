"""
Samples of the services' metrics, one per second, while they are under load.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.foreign import Foreign, Watch, families

_HITS = {"near", "shared", "stale"}
# What is read of a page. Parsing the rest would load the machine that is measured.
_NAMES = (
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "modelyard_cache_reads_total",
    "modelyard_database_pool_",
    "modelyard_event_loop_lag_seconds",
    "process_resident_memory_bytes",
)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One page of metrics of one process.

    Args:
        rss: bytes of memory.
        lag: the longest delay of its event loop, in seconds.
        pool: the share of database connections in use, 0 to 1; None without a pool.
        calls: that have ended.
        failed: of those.
        hits, reads: of the cache, but for searches.
        buckets: of the durations of cached reads at the cache, in seconds.
    """

    rss: float = 0.0
    lag: float = 0.0
    pool: float | None = None
    calls: float = 0.0
    failed: float = 0.0
    hits: float = 0.0
    reads: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)


def read(text: str) -> Reading:
    """
    Read a page.
    """
    found: dict[str, float] = defaultdict(float)
    buckets: dict[float, float] = defaultdict(float)
    lines = [line for line in text.splitlines(keepends=True) if line.startswith(_NAMES)]
    for family in text_string_to_metric_families("".join(lines)):
        for name, labels, value, *_ in family.samples:
            if name == "grpc_server_handled_total":
                found["calls"] += value
                found["failed"] += (
                    value if labels["grpc_code"] in ("Unavailable", "Internal", "DeadlineExceeded") else 0
                )
            elif name == "modelyard_cache_reads_total":
                # Searches are of the whole registry: every creation makes all of them new.
                counts = labels["class"] != "searches"
                found["reads"] += value if counts and labels["result"] != "bypass" else 0
                found["hits"] += value if counts and labels["result"] in _HITS else 0
            elif name == "grpc_server_handling_seconds_bucket" and labels["grpc_method"].startswith(
                ("Get", "BatchGet")
            ):
                buckets[float(labels["le"])] += value
            elif name == "process_resident_memory_bytes":
                found[name] = value
            elif name == "modelyard_event_loop_lag_seconds":
                found["lag"] = value
            elif name.startswith("modelyard_database_pool_"):
                found[name.removeprefix("modelyard_database_pool_")] += value
    pool = (found["connections"] - found["idle"]) / found["most"] if found.get("most") else None
    return Reading(
        rss=found["process_resident_memory_bytes"],
        lag=found["lag"],
        pool=pool,
        calls=found["calls"],
        failed=found["failed"],
        hits=found["hits"],
        reads=found["reads"],
        buckets=dict(buckets),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """
    Everything at one moment.

    Args:
        at: seconds since the beginning of the run.
        machine: the share of all cores that is busy, 0 to 1.
        of: readings by process: registry, cache, cdn; with a number where there are several.
        cpu: seconds of processor time so far, by part of the suite: gateway, registry, postgres, valkey, …
        foreign: cores that others took since the sample before.
    """

    at: float
    machine: float
    of: Mapping[str, Reading]
    cpu: Mapping[str, float] = field(default_factory=dict)
    foreign: float = 0.0


class Sampler:
    """
    Samples in a thread of its own for as long as the block lasts.

    Args:
        pages: addresses of metrics by service.
        began: in seconds since 1970.
        pids: gives the process ids of the suite's parts by name.
    """

    def __init__(
        self, pages: Mapping[str, Sequence[str]], began: float, pids: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        self._pages = {
            name if number == 0 else f"{name}-{number + 1}": page
            for name, each in pages.items()
            for number, page in enumerate(each)
        }
        self._began, self._pids = began, pids
        self._watch = Watch()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Sampler:
        psutil.cpu_percent(None)
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._take()

    def _run(self) -> None:
        while not self._enough.wait(1.0):
            self._take()

    def _take(self) -> None:
        found = {}
        for name, page in self._pages.items():
            try:
                with urllib.request.urlopen(page, timeout=2) as answer:  # noqa: S310 - our own, on loopback
                    found[name] = read(answer.read().decode())
            except OSError:
                continue  # it may have been killed; that shows
        cpu, foreign = families(self._pids().items()), self._watch.since_last().cores
        at = time.time() - self._began
        self.samples.append(Sample(at, psutil.cpu_percent(None) / 100, found, cpu, foreign))

    def foreign(self) -> Foreign:
        """
        What else the machine did.
        """
        return self._watch.so_far()

    def hit_rate(self) -> float | None:
        """
        Of the cached reads of the run, in percent; None when there were none or nobody said.
        """
        if len(self.samples) < 2 or "cache" not in self.samples[0].of or "cache" not in self.samples[-1].of:
            return None
        first, last = self.samples[0].of["cache"], self.samples[-1].of["cache"]
        reads = last.reads - first.reads
        return 100 * (last.hits - first.hits) / reads if reads > 0 else None

    def cache_p95(self) -> float | None:
        """
        The 95th percentile of reads at the cache itself, in milliseconds: the upper end of its bucket.
        """
        if len(self.samples) < 2 or "cache" not in self.samples[0].of or "cache" not in self.samples[-1].of:
            return None
        first, last = self.samples[0].of["cache"].buckets, self.samples[-1].of["cache"].buckets
        grown = {le: last[le] - first.get(le, 0.0) for le in sorted(last)}
        whole = grown.get(float("inf"), 0.0)
        if whole <= 0:
            return None
        return 1000 * next(le for le, count in grown.items() if count >= 0.95 * whole)

    def memory(self) -> dict[str, list[tuple[float, float]]]:
        """
        Seconds and MiB, by process.
        """
        return self._curve(lambda reading: reading.rss / _MIB)

    def curves(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """
        What the report draws: memory, the event loop's delay and the pool's use by process; cores by part of the suite,
        and those that others took.
        """
        cores: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            for name in sorted(before.cpu.keys() & after.cpu.keys()):
                used = (after.cpu[name] - before.cpu[name]) / max(after.at - before.at, 0.1)
                if used >= 0:  # it was killed and started again
                    cores[name].append((after.at, used))
            cores["others"].append((after.at, after.foreign))
        return {
            "cores": dict(cores),
            "memory": self.memory(),
            "lag": self._curve(lambda reading: 1000 * reading.lag),
            "pool": self._curve(lambda reading: None if reading.pool is None else 100 * reading.pool),
            "machine": {"all cores": [(each.at, 100 * each.machine) for each in self.samples[1:]]},
        }

    def _curve(self, value: object) -> dict[str, list[tuple[float, float]]]:
        assert callable(value)  # noqa: S101 - for the type checker
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for sample in self.samples:
            for name, reading in sample.of.items():
                if (y := value(reading)) is not None:
                    found[name].append((sample.at, y))
        return dict(found)
