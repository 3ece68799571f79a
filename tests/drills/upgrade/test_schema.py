"""
Migrations since a release only add: its programs go on with the newest schema.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.postgres import Postgres
from embedded.shared import Servers
from tests.drills.upgrade.fleet import ROOT, NoHistoryError, Release, releases
from tests.drills.upgrade.schemas import Schema, taken_away

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


def _migrate(postgres: Postgres, service: str, database: str, tree: Path) -> None:
    environment = {"MODELYARD_DATABASE_URL": postgres.url(database), "PATH": "", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", f"services.{service}.migrate"]
    subprocess.run(command, env=environment, cwd=tree, check=True, timeout=100)


@pytest.fixture
def database(postgres: Postgres, worker: str) -> str:
    """
    The name of an empty database.
    """
    name = f"upgrade_{worker}_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return name


@pytest.mark.parametrize(("release", "service"), _KNOWN, ids=[f"{each.name}-{name}" for each, name in _KNOWN])
def test_nothing_is_taken_away(
    postgres: Postgres, database: str, release: Release, service: str, tmp_path: Path
) -> None:
    """
    What the release's schema had, the newest has, and it refuses no row that the release's refused not; its files of
    migrations are as they were.
    """
    try:
        release.unpack(tmp_path)
    except NoHistoryError as error:
        pytest.skip(str(error))
    for file in (tmp_path / "services" / service / "migrations").glob("[0-9]*.sql"):
        assert (ROOT / file.relative_to(tmp_path)).read_bytes() == file.read_bytes(), file.name
    _migrate(postgres, service, database, tmp_path)
    before = Schema.read(postgres, database)
    _migrate(postgres, service, database, ROOT)
    assert list(taken_away(before, Schema.read(postgres, database))) == []


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("ALTER TABLE models DROP COLUMN owner", "column models.owner is gone"),
        ("DROP TABLE deployments CASCADE", "column deployments.replicas is gone"),
        ("ALTER TABLE revision ALTER value TYPE numeric", "column revision.value was bigint"),
        ("ALTER TABLE models ALTER owner SET NOT NULL, ALTER owner DROP DEFAULT", "has to be given now"),
        ("ALTER TABLE models ADD team text NOT NULL", "column models.team is new, and has neither"),
        ("ALTER TABLE models ADD CHECK (owner <> 'root')", "is new, and may refuse rows"),
        ("CREATE UNIQUE INDEX ON models (owner)", "is new, and may refuse rows"),
        ("REVOKE SELECT ON models FROM modelyard_service", "SELECT on models.owner is no longer granted"),
    ],
)
def test_what_is_taken_away_is_found(postgres: Postgres, newest: str, sql: str, says: str) -> None:
    """
    Every way to break an older program is told; what only adds is not.
    """
    postgres.sql("ALTER TABLE models ALTER owner DROP NOT NULL", newest)
    before = Schema.read(postgres, newest)
    postgres.sql(
        "ALTER TABLE models ADD note text; CREATE TABLE more (x int NOT NULL); CREATE INDEX ON models (owner)", newest
    )
    assert list(taken_away(before, Schema.read(postgres, newest))) == []
    postgres.sql(sql, newest)
    assert says in "\n".join(taken_away(before, Schema.read(postgres, newest)))
