"""
The databases of a suite: PostgreSQL, which scales up first and then by replicas, and Valkey, by shards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity.assumptions import Assumptions
from bench.capacity.pools import Pool, described, missed
from bench.capacity.traffic import Hits, Load

SIZES = (2, 4, 8, 16, 32, 64, 128)
GIB_A_CORE = 8
#: Of the connections that a server takes, those of superusers, migrations and backups.
_RESERVED = 20
#: Below so many connections a process's calls wait for each other.
_POOL_LEAST = 4


@dataclass(frozen=True, slots=True)
class Postgres:
    """
    The registry's database of one suite.

    Args:
        size: cores of each server.
        replicas: that answer reads, beside the primary and its standby.
        reading, writing: cores of work.
        gib: of data.
        primary, replica: how busy one is, 0 to 1; without replicas the primary does everything.
        fits: whether the memory has room for what should be in it.
        pool: connections of one registry process to each server, or 0: PgBouncer is needed.
    """

    size: int
    replicas: int
    reading: float
    writing: float
    gib: float
    primary: float
    replica: float
    fits: bool
    pool: int


def postgres(figures: Assumptions, load: Load, found: Hits, suites: int, processes: int) -> tuple[Postgres, Pool]:
    """
    The registry's database: the smallest server that does it alone, else the largest with read replicas.

    Args:
        load: of the busiest suite.
        processes: of the registry, in a suite.
    """
    reading, writing = _work(figures, load, found)
    gib = load.models * figures["postgres.model"] / 2**30
    sizes = [size for size in SIZES if size <= figures["postgres.cores_most"]]
    enough = [size for size in sizes if size * GIB_A_CORE >= gib * figures["postgres.resident"]]
    target = figures["target.postgres"]
    alone = [size for size in enough if size * target >= reading + writing]
    size, replicas, primary, replica = sizes[-1], 0, reading + writing, 0.0
    if alone:
        size = alone[0]
    else:
        replaying = load.writes * figures["postgres.replay"] / 1000
        replicas = math.ceil(reading / max(size * target - replaying, 0.1 * size * target))
        primary, replica = writing, reading / replicas + replaying
    calls = missed(figures, found, "registry") + load.writes
    servers, service = suites * (2 + replicas), 1000 * (reading + writing) / calls
    pool = described(
        figures, "postgres", (reading + writing) * suites, servers, size, max(primary, replica) / size, service
    )
    connections = _connections(figures, processes)
    busy = primary / size, replica / size
    return Postgres(size, replicas, reading, writing, gib, *busy, bool(enough), connections), pool


def _work(figures: Assumptions, load: Load, found: Hits) -> tuple[float, float]:
    """
    Cores of reads and of writes.
    """
    growth = figures["postgres.growth"] ** max(0.0, math.log10(load.models / 10_000))
    calls = [call for call in figures.calls if call.at == "registry"]
    reading = sum(found.missed[call.name] * call.postgres * (growth if call.grows else 1) for call in calls)
    return reading / 1000, load.writes * figures["write.postgres"] / 1000


def _connections(figures: Assumptions, processes: int) -> int:
    """
    Of one process, beside the two of its change stream; 0 when that would be too few.
    """
    left = int((figures["postgres.connections"] - _RESERVED) // processes) - 2
    return min(int(figures["postgres.pool"]), left) if left >= _POOL_LEAST else 0


def valkey(figures: Assumptions, found: Hits, suites: int) -> tuple[int, Pool]:
    """
    Shards of a suite, by what they hold and by what they do.
    """
    absent = sum(found.missed[call.name] for call in figures.calls if call.kept > 0)
    # A look; of a miss the lease and the entry, too.
    cores = (found.reads * (1 - found.near) + 2 * absent) * figures["valkey.operation"] / 1000
    memory = found.octets / 2**30
    shards = max(1, math.ceil(cores / figures["target.valkey"]), math.ceil(memory / figures["valkey.memory"]))
    service = figures["valkey.operation"]
    return shards, described(figures, "valkey", cores * suites, shards * suites, 1, cores / shards, service)
