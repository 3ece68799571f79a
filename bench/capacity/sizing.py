"""
From a case to pods, databases and machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity import ceiling
from bench.capacity.assumptions import Assumptions
from bench.capacity.databases import Postgres, postgres, valkey
from bench.capacity.pools import Pool, described, mean, missed
from bench.capacity.traffic import Case, CaseError, Hits, Load, hits

#: How often suites are added, and the cache is sized anew.
_ROUNDS, _SETTLE = 20, 8


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a case takes.

    Args:
        suites: registries with a revision of their own.
        bound: why there are so many.
        load: of the busiest suite.
        hits: of its cache.
        pools: gateway, cache, registry, cdn, postgres, valkey, in this order.
        postgres: of one suite.
        shards: of Valkey, of one suite; each has a replica.
        machines: for all pods.
    """

    case: Case
    suites: int
    bound: str
    load: Load
    hits: Hits
    pools: tuple[Pool, ...]
    postgres: Postgres
    shards: int
    machines: int
    ceiling: float

    def pool(self, name: str) -> Pool:
        """
        The pool of that name.
        """
        return next(pool for pool in self.pools if pool.name == name)


def plan(figures: Assumptions, case: Case) -> Plan:
    """
    Size everything.

    Raises:
        CaseError: no number of suites takes it: one namespace alone is too much.
    """
    most = ceiling.deployed(figures)
    imbalance = figures["traffic.imbalance"]
    by_writes = _suites(case.calls * case.writes / (most * figures["target.revision"]), imbalance)
    by_models = math.ceil(case.models / figures["postgres.models_most"])
    suites, bound = max((by_writes, "revision"), (by_models, "models"))
    for _ in range(_ROUNDS):
        found = _sized(figures, case, suites, bound if suites > 1 else "", most)
        too_much = _too_much(figures, found)
        if too_much <= 1:
            return found
        suites, bound = max(suites + 1, math.ceil(suites * min(too_much, 4))), "PostgreSQL"
    raise CaseError(
        f"--calls {case.calls:g} with --writes {case.writes:g} fits no number of suites up to {suites:,}; "
        "ask for less, or raise postgres.cores_most and postgres.replicas_most in the assumptions"
    )


def _suites(load: float, imbalance: float) -> int:
    return 1 if load <= 1 else math.ceil(load * imbalance)


def _too_much(figures: Assumptions, found: Plan) -> float:
    postgres = found.postgres
    by_writes = postgres.writing / (figures["postgres.cores_most"] * figures["target.postgres"])
    return max(postgres.replicas / figures["postgres.replicas_most"], by_writes, 1.0 if postgres.fits else 2.0)


def _sized(figures: Assumptions, case: Case, suites: int, bound: str, most: float) -> Plan:
    share = (figures["traffic.imbalance"] if suites > 1 else 1.0) / suites
    writes = case.calls * case.writes * share
    load = Load(case.models / suites, case.calls * share - writes, writes, case.skew)
    found, cache = _cache(figures, load)
    caches = _pool(figures, "cache", cache, suites, 1000 * cache / found.reads if found.reads else 0.0)
    registries = _registry(figures, load, found, suites, caches.servers / suites)
    database, servers = postgres(figures, load, found, suites, math.ceil(registries.servers / suites))
    shards, stores = valkey(figures, found, suites)
    gateways, cdns = _gateway(figures, load, suites, case.gib * share), _cdn(figures, found, suites, case.gib * share)
    machines = _machines(figures, (gateways, caches, registries, cdns))
    pools = (gateways, caches, registries, cdns, servers, stores)
    return Plan(case, suites, bound, load, found, pools, database, shards, machines, most)


def _gateway(figures: Assumptions, load: Load, suites: int, gib: float) -> Pool:
    cores = (load.calls * figures["gateway.call"] + gib * figures["bytes.gateway"]) / 1000
    each = int(figures["pod.gateway_cores"])
    return _pool(figures, "gateway", cores, suites, figures["gateway.call"], "target.gateway", each)


def _cdn(figures: Assumptions, found: Hits, suites: int, gib: float) -> Pool:
    call = mean(figures, found, "cdn")
    cores = (missed(figures, found, "cdn") * call + gib * figures["bytes.cdn"]) / 1000
    return _pool(figures, "cdn", cores, suites, call)


def _cache(figures: Assumptions, load: Load) -> tuple[Hits, float]:
    """
    Hits and cores of one suite's cache: what is in memory depends on how many processes share the calls, and their
    number on what is in memory.
    """
    least = int(figures["pod.least"])
    # Each process takes in every change.
    following = load.writes * figures["stream.applied"] / 1000
    room = max(figures["target.services"] - following, 0.01)
    passed = sum(load.rate(figures, call) for call in figures.calls if call.name == "calls.get_uncached")
    pods, cores = least, 0.0
    for _ in range(_SETTLE):
        found = hits(figures, load, pods)
        absent = sum(found.missed[call.name] for call in figures.calls if call.kept > 0) + passed
        work = (found.reads + passed) * (figures["host.call"] + figures["cache.near"])
        work += found.reads * (1 - found.near) * figures["cache.shared"] + absent * figures["cache.miss"]
        needed = max(least, math.ceil(work / 1000 / room))
        cores = work / 1000 + needed * following
        if needed <= pods:
            break
        pods = needed
    return found, cores


def _registry(figures: Assumptions, load: Load, found: Hits, suites: int, watchers: float) -> Pool:
    reads = missed(figures, found, "registry")
    work = reads * mean(figures, found, "registry")
    work += load.writes * (figures["write.registry"] + watchers * figures["stream.event"])
    calls = reads + load.writes
    return _pool(figures, "registry", work / 1000, suites, work / calls)


def _pool(
    figures: Assumptions,
    name: str,
    cores: float,
    suites: int,
    service: float,
    target: str = "target.services",
    each: int = 1,
) -> Pool:
    """
    Args:
        cores: of the busiest suite.
        service: ms of a call.
        target: the name of the utilisation.
    """  # fmt: skip
    whole = math.ceil(cores * suites / (each * figures[target]) - 1e-9)
    servers = max(int(figures["pod.least"]) * suites, whole)
    return described(figures, name, cores * suites, servers, each, cores * suites / servers / each, service)


def _machines(figures: Assumptions, pools: tuple[Pool, ...]) -> int:
    cores = sum(pool.servers * pool.each for pool in pools)
    memory = sum(
        pool.servers * figures["pod.gateway_memory" if pool.name == "gateway" else "pod.service_memory"]
        for pool in pools
    )
    usable = figures["machine.usable"]
    needed = max(cores / (figures["machine.cores"] * usable), memory / (figures["machine.memory"] * usable))
    return math.ceil(needed) + int(figures["machine.spare"])
