"""
What the model says, as Markdown: the nine cases, one case line by line, the checks of the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.capacity import calibration, ceiling
from bench.capacity.assumptions import Assumptions
from bench.capacity.databases import GIB_A_CORE
from bench.capacity.pools import Pool
from bench.capacity.sensitivity import changed
from bench.capacity.simulation import TRIALS, approximated, simulated
from bench.capacity.sizing import Plan, plan
from bench.capacity.traffic import Case

MODELS = (1e4, 1e6, 1e8)
CALLS = (1e3, 1e5, 1e6)


def nine(figures: Assumptions) -> str:
    """
    The nine cases.
    """
    found = [
        plan(figures, Case(models, calls, figures["traffic.writes"], figures["traffic.skew"]))
        for models in MODELS
        for calls in CALLS
    ]
    head = (
        "models", "calls/s", "suites", "hits", "excluding searches", "gateway", "cache", "registry", "cdn",
        "PostgreSQL, a suite", "Valkey", "machines for pods",
    )  # fmt: skip
    return _table(head, [_row(each) for each in found])


def _row(found: Plan) -> Sequence[str]:
    postgres = found.postgres
    beside = f" + {postgres.replicas} replicas" if postgres.replicas else ""
    return (
        _short(found.case.models), _short(found.case.calls),
        f"{found.suites} ({found.bound})" if found.bound else "1",
        f"{found.hits.whole:.0%}", f"{found.hits.quiet:.0%}",
        *(f"{found.pool(name).servers:,}" for name in ("gateway", "cache", "registry", "cdn")),
        f"2 x {postgres.size} cores{beside}", f"{2 * found.pool('valkey').servers:,}", f"{found.machines:,}",
    )  # fmt: skip


def lines(figures: Assumptions, found: Plan) -> str:
    """
    One case with the reasoning.
    """
    case, load, hits, postgres = found.case, found.load, found.hits, found.postgres
    writes = case.calls * case.writes
    told = [
        f"{case.models:,.0f} models, {case.calls:,.0f} calls/s, {writes:,.0f} of them writes, Zipf({case.skew:g})",
        "",
        f"* suites: {writes:,.0f} writes/s / {found.ceiling:,.0f} of one revision at {figures['target.revision']:.0%}, "
        f"{case.models:,.0f} models / {figures['postgres.models_most']:,.0f} → {found.suites}"
        + (f", bound by {found.bound}" if found.bound else ""),
        *_sharded(figures, found),
        f"* the busiest suite: {load.models:,.0f} models, {load.reads:,.0f} reads/s, {load.writes:,.0f} writes/s, "
        f"its revision {load.writes / found.ceiling:.0%} busy",
        f"* hit rate: {hits.whole:.1%} of {hits.reads:,.0f} cached reads/s ({hits.near:.1%} in memory); "
        f"{hits.quiet:.1%} without searches, which every write to their namespace makes new",
        _cells(figures, load.writes),
        *(_pool(figures, found, pool) for pool in found.pools[:4]),
        f"* stream: {found.pool('cache').servers / found.suites:.0f} cache processes watch, told "
        f"{load.writes * found.pool('cache').servers / found.suites:,.0f} changes/s (in the registry's cores)",
        f"* PostgreSQL: {postgres.reading:.1f} cores of reads and {postgres.writing:.1f} of writes at "
        f"{figures['target.postgres']:.0%} → {postgres.size} cores, {postgres.size * GIB_A_CORE} GiB, with a standby"
        f" and {postgres.replicas} read replicas; {postgres.gib:,.1f} GiB of data; primary "
        f"{postgres.primary:.0%} busy, replicas {postgres.replica:.0%}, p95 {found.pool('postgres').p95:.0f} ms",
        _connections(figures, found),
        f"* Valkey: {hits.entries:,.0f} entries, {hits.octets / 2**30:.1f} GiB / "
        f"{figures['valkey.memory']:g} → {_count(found.shards, 'shard')}, each with a replica; "
        f"{found.pool('valkey').utilisation:.0%} busy",
        f"* machines for pods: {found.machines} of {figures['machine.cores']:.0f} cores and "
        f"{figures['machine.memory']:.0f} GiB at {figures['machine.usable']:.0%}, {figures['machine.spare']:.0f} spare",
    ]
    if found.suites > 1:
        told.append(f"* pods and Valkey are of all {found.suites} suites, PostgreSQL is of one")
    return "\n".join(told)


def _sharded(figures: Assumptions, found: Plan) -> list[str]:
    namespaces = max(1, math.ceil(found.case.models / figures["traffic.models_of_namespace"]))
    if namespaces >= found.suites:
        return []
    return [
        f"* a namespace is in one suite: at least {found.suites} are needed, and {found.case.models:,.0f} models "
        f"make {namespaces} of the assumed size"
    ]


def _cells(figures: Assumptions, writes: float) -> str:
    often = ceiling.shared_cells(figures, writes)
    if not often:
        return "* nothing is written, so that entries live as long as their class says"
    return f"* an entry shares its cell with a name that is changed every {1 / often / 3600:,.1f} h, and ends with it"


def _pool(figures: Assumptions, found: Plan, pool: Pool) -> str:
    target = figures["target.gateway" if pool.name == "gateway" else "target.services"]
    least = figures["pod.least"] * found.suites
    needed = math.ceil(pool.cores / (pool.each * target) - 1e-9)
    more = f", {least:.0f} for availability" if needed < least else ""
    return (
        f"* {pool.name}: {pool.cores:,.2f} cores of work / {pool.each} a pod at {target:.0%} → "
        f"{_count(needed, 'pod')}{more}; "
        f"{pool.utilisation:.0%} busy, p95 {pool.p95:.1f} ms"
    )


def _connections(figures: Assumptions, found: Plan) -> str:
    pods = math.ceil(found.pool("registry").servers / found.suites)
    wanted, most = figures["postgres.pool"], figures["postgres.connections"]
    asked = f"* connections: {pods} registry processes x ({wanted:.0f} + 2) = {pods * (wanted + 2):,.0f} of {most:.0f}"
    if not found.postgres.pool:
        return f"{asked} → PgBouncer in transaction mode, with max_prepared_statements"
    if found.postgres.pool < wanted:
        return f"{asked} → MODELYARD_DATABASE_POOL_MAX={found.postgres.pool}"
    return f"{asked}: they fit"


def matters(figures: Assumptions) -> str:
    """
    One assumption changed at a time.
    """
    body = [
        (
            what, f"{found.suites}", f"{found.hits.whole:.0%}",
            *(f"{found.pool(name).servers:,}" for name in ("gateway", "cache", "registry")),
            f"{found.pool('postgres').servers * found.postgres.size:,}",
        )
        for what, found in changed(figures)
    ]  # fmt: skip
    return _table(("assumption", "suites", "hits", "gateway", "cache", "registry", "PostgreSQL cores in all"), body)


def calibrated(figures: Assumptions) -> str:
    """
    Prediction beside measurement.
    """
    body = [
        (
            row.what, _span(row.predicted), _span(row.measured), f"{row.off:.2f}",
            f"{row.within:g}" if row.within else "missed", row.source, row.why,
        )
        for row in calibration.rows(figures)
    ]  # fmt: skip
    return _table(("figure", "model", "measured", "off by", "claimed", "measured in", ""), body)


def checked() -> str:
    """
    Che's approximation beside the simulation.
    """
    body = [
        (
            f"{trial.population:,}", f"{trial.skew:g}", f"{trial.room:,}",
            "-" if trial.kept > 1e6 else f"{trial.kept:g} s", f"{trial.writes:g}",
            f"{approximated(trial):.1%}", f"{simulated(trial):.1%}",
        )
        for trial in TRIALS
    ]  # fmt: skip
    return _table(("keys", "Zipf", "room", "kept", "writes a read", "approximation", "simulation"), body)


def _span(of: tuple[float, float]) -> str:
    low, high = (f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in of)
    return low if low == high else f"{low} … {high}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _short(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))
