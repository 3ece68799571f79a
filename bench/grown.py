"""
Databases of a size, kept between runs: `.modelyard/bench/{count}` holds a PostgreSQL with that many models.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from bench.population import EDITION, Say, populate
from embedded.postgres import Postgres
from embedded.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[1]

# What a server of this size is given: the defaults are for a laptop's corner.
_SERVER = {
    "shared_buffers": "2GB",
    "effective_cache_size": "6GB",
    "work_mem": "32MB",
    "max_wal_size": "8GB",
    "random_page_cost": "1.1",
}


@contextmanager
def grown(count: int, say: Say, folder: Path | None = None) -> Iterator[Postgres]:
    """
    A running PostgreSQL whose database has *count* models; it is made when it is not there or not whole.

    Args:
        say: is told how far making it is.
        folder: of the state; below .modelyard/ by default.
    """
    state = (folder or ROOT / ".modelyard" / "bench" / str(count)).resolve()
    whole = state / "whole"
    supervisor = Supervisor(state / "log")
    with _alone(state):
        try:
            made = whole.exists() and whole.read_text(encoding="utf-8") == EDITION
            if not made:
                shutil.rmtree(state, ignore_errors=True)
            state.mkdir(parents=True, exist_ok=True)
            postgres = Postgres.inside(state)
            supervisor.start([postgres.part(**_SERVER)])
            _migrate(postgres)
            if not made:
                say(f"making {count:,} models in {state}")
                asyncio.run(populate(postgres.url(), count, say))
                whole.write_text(EDITION, encoding="utf-8")
            yield postgres
        finally:
            supervisor.stop()


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """
    Raises:
        SystemExit: another bench or test uses that database: each would measure, and stop, the other's.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{state} is in use by another bench") from None
        yield


def _migrate(postgres: Postgres) -> None:
    environment = {**os.environ, "MODELYARD_DATABASE_URL": postgres.url()}
    subprocess.run([sys.executable, "-m", "services.registry.migrate"], env=environment, cwd=ROOT, check=True)


async def size(url: str) -> str:
    """
    How large the database is, for the notes of a report.
    """
    connection = await asyncpg.connect(url)
    try:
        found: str = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        return found
    finally:
        await connection.close()
