"""
Statistics of an interval, from two scrapes of the metrics endpoints.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelyard.cli.scrape import Page, Sample

#: Status codes of server errors, as opposed to errors of the caller.
SERVER_ERRORS = frozenset({"Unknown", "DeadlineExceeded", "Internal", "Unavailable", "DataLoss"})
_HITS = frozenset({"near", "shared"})


@dataclass(slots=True)
class Calls:
    """
    The calls of a method or of a service in an interval.

    Args:
        ended: completed calls.
        errors: completed calls with a server error.
        running: calls in progress.
        seconds: cumulative histogram: number of calls by upper bound in seconds.
    """

    ended: float = 0
    errors: float = 0
    running: float = 0
    seconds: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, other: Calls) -> None:
        """
        Add *other*.
        """
        self.ended += other.ended
        self.errors += other.errors
        self.running += other.running
        for bound, count in other.seconds.items():
            self.seconds[bound] += count

    def quantile(self, share: float) -> float | None:
        """
        A latency quantile in seconds, as histogram_quantile of Prometheus computes it; None without calls.
        """
        buckets = sorted(self.seconds.items())
        if not buckets or buckets[-1][1] <= 0:
            return None
        rank, lower, below = share * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= rank:
                # The last bucket has no upper bound.
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower


@dataclass(slots=True)
class Service:
    """
    A service with the sum of its processes.

    Args:
        name: registry, cache, cdn, doors.
        processes: number of processes that responded.
        calls: calls without health checks, reflection and watches.
        cores: CPU usage in cores.
        memory: resident memory in bytes.
        hits, misses: reads that the cache answered, or did not.
        used, most, waiting: database connections in use, their maximum, and calls that wait for one.
    """

    name: str
    processes: int = 0
    calls: Calls = field(default_factory=Calls)
    cores: float = 0
    memory: float = 0
    hits: float = 0
    misses: float = 0
    used: float = 0
    most: float = 0
    waiting: float = 0

    @property
    def hit_rate(self) -> float | None:
        """
        The hit rate of cacheable reads; None without reads.
        """
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    A method of a service.
    """

    service: str
    method: str
    calls: Calls


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    The statistics of an interval.

    Args:
        seconds: length of the interval.
        services: services by name.
        endpoints: methods with calls, the slowest first.
        unreachable: addresses that did not respond, with the reason.
    """

    seconds: float
    services: list[Service]
    endpoints: list[Endpoint]
    unreachable: list[tuple[str, str]]


def snapshot(first: Sequence[Page], second: Sequence[Page]) -> Snapshot:
    """
    The statistics between two scrapes of the same addresses.
    """
    services: dict[str, Service] = {}
    methods: dict[tuple[str, str], Calls] = {}
    seconds = 0.0
    before = {page.address: page for page in first}
    for page in second:
        if page.error:
            continue
        seconds = max(seconds, page.timestamp - before[page.address].timestamp)
        service = services.setdefault(page.service, Service(page.service))
        service.processes += 1
        for method, calls in _add(service, before[page.address], page).items():
            methods.setdefault((service.name, method), Calls()).add(calls)
    for (name, _), calls in methods.items():
        services[name].calls.add(calls)
    called = [Endpoint(name, method, calls) for (name, method), calls in methods.items() if calls.ended]
    return Snapshot(
        seconds,
        [services[name] for name in sorted(services)],
        sorted(called, key=lambda each: each.calls.quantile(0.95) or 0.0, reverse=True),
        [(page.address, page.error) for page in second if page.error],
    )


def _add(service: Service, first: Page, second: Page) -> dict[str, Calls]:
    """
    Add the statistics of a process to its service.

    Returns:
        Its calls by method.
    """
    earlier = {_identity(each): each.value for each in first.samples}
    # Without an earlier scrape the counters of a process have no start value.
    known = not first.error

    def grown(sample: Sample) -> float:
        was = earlier.get(_identity(sample), 0.0) if known else sample.value
        # A counter that decreased was reset by a restart.
        return sample.value - was if sample.value >= was else sample.value

    methods: dict[str, Calls] = defaultdict(Calls)
    seconds = second.timestamp - first.timestamp
    for sample in second.samples:
        if sample.name.startswith("grpc_server_"):
            _count(methods, sample, grown)
        elif sample.name == "process_cpu_seconds_total":
            service.cores += grown(sample) / seconds if seconds > 0 else 0.0
        elif sample.name == "modelyard_cache_reads_total":
            if sample.labels["result"] in _HITS:
                service.hits += grown(sample)
            elif sample.labels["result"] == "miss":
                service.misses += grown(sample)
        elif (field_ := _GAUGES.get(sample.name)) is not None:
            name, sign = field_
            setattr(service, name, getattr(service, name) + sign * sample.value)
    return methods


_POOL = "modelyard_database_pool"
_GAUGES = {
    "process_resident_memory_bytes": ("memory", 1),
    f"{_POOL}_connections": ("used", 1),
    f"{_POOL}_idle": ("used", -1),
    f"{_POOL}_most": ("most", 1),
    f"{_POOL}_waiting": ("waiting", 1),
}


def _count(methods: dict[str, Calls], sample: Sample, grown: Callable[[Sample], float]) -> None:
    labels = sample.labels
    service, method = labels["grpc_service"], labels["grpc_method"]
    # Calls of unknown services have no method, and are client errors.
    if service.startswith("grpc.") or service == "unknown" or method.startswith("Watch"):
        return
    # Qualified by the gRPC service: the cache serves the methods of several services.
    calls = methods[f"{service.rpartition('.')[2]}/{method}"]
    match sample.name.removeprefix("grpc_server_"):
        case "started_total":
            calls.running += sample.value
        case "handled_total":
            calls.running -= sample.value
            calls.ended += grown(sample)
            calls.errors += grown(sample) if labels["grpc_code"] in SERVER_ERRORS else 0.0
        case "handling_seconds_bucket":
            calls.seconds[float(labels["le"])] += grown(sample)


def _identity(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())
