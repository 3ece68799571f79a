"""
Migrations on a real database.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from services.embedded.postgres import Postgres
from services.registry.migrate import Migration, MigrationError, migrate, migrations

ROOT = Path(__file__).resolve().parents[3]
ONE = Migration(1, "0001_one.sql", "CREATE TABLE one (x int)")
TWO = Migration(2, "0002_two.sql", "CREATE TABLE two (x int)")

_numbers = itertools.count(1)


@pytest.fixture
def empty(postgres: Postgres) -> str:
    """
    The address of an empty database.
    """
    name = f"empty_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return postgres.url(name)


@pytest.fixture
async def connection(empty: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    A connection to it.
    """
    found = await asyncpg.connect(empty)
    yield found
    await found.close()


async def test_runs_what_has_not_run(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Each file runs once, in order.
    """
    assert await migrate(connection, [ONE]) == ["0001_one.sql"]
    assert await migrate(connection, [ONE, TWO]) == ["0002_two.sql"]
    assert await migrate(connection, [ONE, TWO]) == []


async def test_refuses_a_changed_file(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    A file that changed after it ran stops everything.
    """
    await migrate(connection, [ONE])
    with pytest.raises(MigrationError, match=r"0001_one\.sql has changed since it ran"):
        await migrate(connection, [Migration(1, "0001_one.sql", f"{ONE.sql} "), TWO])
    assert await connection.fetchval("SELECT to_regclass('two')") is None


async def test_refuses_a_newer_database(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    An old program does not touch the database of a newer one.
    """
    await migrate(connection, [ONE, TWO])
    with pytest.raises(MigrationError, match="run a newer one"):
        await migrate(connection, [ONE])


async def test_a_failing_file_leaves_nothing(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Of a file that fails nothing stays, and what ran before it does.
    """
    bad = Migration(2, "0002_bad.sql", "CREATE TABLE half (x int); SELECT 1/0")
    with pytest.raises(MigrationError, match=r"0002_bad\.sql failed, and nothing of it was kept: division by zero"):
        await migrate(connection, [ONE, bad])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await migrate(connection, [ONE, TWO]) == ["0002_two.sql"]


async def test_does_not_wait_for_a_busy_table(
    connection: asyncpg.Connection[asyncpg.Record], empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A file that needs a table in use gives up soon instead of making everybody queue behind it.
    """
    monkeypatch.setattr("services.registry.migrate._LOCK_TIMEOUT", "100ms")
    await migrate(connection, [ONE])
    other = await asyncpg.connect(empty)
    async with other.transaction():
        await other.execute("SELECT FROM one")
        with pytest.raises(MigrationError, match="waited 100ms for a table that is in use"):
            await migrate(connection, [ONE, Migration(2, "0002_add.sql", "ALTER TABLE one ADD y int")])
    await other.close()


async def test_several_at_once(empty: str) -> None:
    """
    Of processes that start at the same time one migrates and the others wait for it.
    """
    connections = [await asyncpg.connect(empty) for _ in range(4)]
    done = await asyncio.gather(*(migrate(each, migrations()) for each in connections))
    assert sorted(map(len, done)) == [0, 0, 0, len(migrations())]
    for each in connections:
        await each.close()


@pytest.mark.parametrize(
    "names", [["1_a.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["0002_b.sql"]]
)
def test_refuses_wrong_numbers(tmp_path: Path, names: list[str]) -> None:
    """
    Files are numbered 0001, 0002 …, without gaps or repetitions.
    """
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(MigrationError):
        migrations(tmp_path)


def run(**environ: str) -> subprocess.CompletedProcess[str]:
    """
    `python -m services.registry.migrate`.
    """
    command = [sys.executable, "-m", "services.registry.migrate"]
    return subprocess.run(
        command, env={"PATH": "", **environ}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_command(empty: str) -> None:
    """
    The command says what it did.
    """
    first, second = (run(MODELYARD_DATABASE_URL=empty) for _ in range(2))
    assert (first.returncode, first.stderr.strip()) == (0, "migrated: " + ", ".join(each.name for each in migrations()))
    assert (second.returncode, second.stderr.strip()) == (0, "the database has the newest schema")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "MODELYARD_DATABASE_URL is not set"),
        ({"MODELYARD_DATABASE_URL": "mysql://x"}, "expected a URL that starts with postgresql://"),
        (
            {"MODELYARD_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "MODELYARD_DATABASE_STARTUP_SECONDS": "0.1"},
            "the database did not answer within 0.1 s",
        ),
    ],
)
def test_command_that_cannot(environ: dict[str, str], says: str) -> None:
    """
    What is wrong is said without a traceback, and the exit code is 1.
    """
    done = run(**environ)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_shipped_files_are_sound(new_database: Callable[[], str]) -> None:
    """
    The shipped schema refuses what no program should write: a second counter, an overlapping usage, a changed audit.
    """
    connection = await asyncpg.connect(new_database())
    for statement in (
        "INSERT INTO revision (value) VALUES (7)",
        "INSERT INTO revision (singleton, value) VALUES (false, 7)",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE namespace_usage SET models = -1",
        "UPDATE namespaces SET namespace_id = 'a b'",
    ):
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(statement)
    await connection.close()
