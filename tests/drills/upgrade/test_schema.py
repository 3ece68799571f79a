"""
Migrations since a release are additive: its programs can run on the newest schema.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import asyncpg
import pytest

from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.shared import Servers
from services.ledger.migrate import grant, migrate, migrations
from tests.drills.upgrade.fleet import ROOT, NoHistoryError, Release, releases
from tests.drills.upgrade.schemas import Schema, breaking_changes

_numbers = itertools.count(1)
_KNOWN = [(release, service) for release in releases() for service in release.services if service != "cache"]


@pytest.fixture
def newest(postgres: Postgres, run_servers: Servers, worker: str) -> str:
    """
    The name of a database with the registry's newest schema.
    """
    name = f"newest_{worker}_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {run_servers.template('registry')}")
    return name


def _migrate_as(release: Release, postgres: Postgres, service: str, database: str) -> None:
    tree = release.tree()
    environment = {"MODELYARD_DATABASE_URL": postgres.url(database), "PATH": "", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", f"services.{service}.migrate"]
    subprocess.run(command, env=environment, cwd=tree, check=True, timeout=100)


async def _migrate(postgres: Postgres, service: str, database: str) -> None:
    folder = ROOT / "services" / service / "migrations"
    connection = await asyncpg.connect(postgres.url(database))
    try:
        await migrate(connection, migrations(folder))
        await grant(connection, folder, SERVICE_ROLE)
    finally:
        await connection.close()


@pytest.fixture
def database(postgres: Postgres, worker: str) -> str:
    """
    The name of an empty database.
    """
    name = f"upgrade_{worker}_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return name


@pytest.mark.parametrize(("release", "service"), _KNOWN, ids=[f"{each.name}-{name}" for each, name in _KNOWN])
async def test_migrations_are_additive(postgres: Postgres, database: str, release: Release, service: str) -> None:
    """
    The newest schema has everything that the release's schema had, and accepts every row that that one accepted. The
    release's migration files are unchanged.
    """
    try:
        tree = release.tree()
    except NoHistoryError as error:
        pytest.skip(str(error))
    for file in (tree / "services" / service / "migrations").glob("[0-9]*.sql"):
        assert (ROOT / file.relative_to(tree)).read_bytes() == file.read_bytes(), file.name
    _migrate_as(release, postgres, service, database)
    before = Schema.read(postgres, database)
    await _migrate(postgres, service, database)
    assert list(breaking_changes(before, Schema.read(postgres, database))) == []


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("ALTER TABLE models DROP COLUMN owner", "column models.owner was removed"),
        ("DROP TABLE deployments CASCADE", "column deployments.replicas was removed"),
        ("ALTER TABLE revision ALTER value TYPE numeric", "column revision.value changed from bigint"),
        ("ALTER TABLE models ALTER owner SET NOT NULL, ALTER owner DROP DEFAULT", "has no default any more"),
        ("ALTER TABLE models ADD team text NOT NULL", "column models.team is new, NOT NULL and without a default"),
        ("ALTER TABLE models ADD CHECK (owner <> 'root')", "is new, and may reject rows"),
        ("CREATE UNIQUE INDEX ON models (owner)", "is new, and may reject rows"),
        ("REVOKE SELECT ON models FROM modelyard_service", "SELECT on models.owner is no longer granted"),
    ],
)
def test_breaking_changes_are_found(postgres: Postgres, newest: str, sql: str, message: str) -> None:
    """
    Every change that breaks an older program is reported; additive changes are not.
    """
    postgres.sql("ALTER TABLE models ALTER owner DROP NOT NULL", newest)
    before = Schema.read(postgres, newest)
    postgres.sql(
        "ALTER TABLE models ADD note text; CREATE TABLE more (x int NOT NULL); CREATE INDEX ON models (owner)", newest
    )
    assert list(breaking_changes(before, Schema.read(postgres, newest))) == []
    postgres.sql(sql, newest)
    assert message in "\n".join(breaking_changes(before, Schema.read(postgres, newest)))
