"""
Fixtures for the services' tests: real servers, started once per run; a database for each test from a template.

Use them with `pytest_plugins = ["embedded.testing"]` in the conftest of the whole tree.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from embedded.parts import free_port
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.s3 import S3
from embedded.supervisor import Supervisor
from embedded.valkey import Valkey

#: Settings of a PostgreSQL whose data go with the run.
HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_numbers = itertools.count(1)


@contextmanager
def scratch() -> Iterator[Path]:
    """
    A state folder that every user may enter (PostgreSQL does not run as root), removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Supervisor, Path]]:
    """
    A supervisor for this run's servers, and their state folder.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        try:
            yield supervisor, state
        finally:
            supervisor.stop()


@pytest.fixture(scope="session")
def postgres(servers: tuple[Supervisor, Path]) -> Iterator[Postgres]:
    """
    A PostgreSQL server. It need not survive a crash, so that nobody waits for the disk: the tests that kill PostgreSQL
    have a server of their own, which is as durable as any.
    """
    supervisor, state = servers
    server = Postgres.inside(state)
    supervisor.start([server.part(**HASTY)])
    yield server
    _drop(supervisor, "postgresql", signal.SIGQUIT)


@pytest.fixture(scope="session")
def valkey(servers: tuple[Supervisor, Path]) -> Valkey:
    """
    A Valkey server.
    """
    server = Valkey(free_port())
    servers[0].start([server.part()])
    return server


@pytest.fixture(scope="session")
def s3(servers: tuple[Supervisor, Path]) -> Iterator[S3]:
    """
    An S3 server with its bucket.
    """
    supervisor, state = servers
    server = S3(state, free_port())
    supervisor.start([server.part()])
    yield server
    _drop(supervisor, "s3", signal.SIGKILL)


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """
    The name of a database with the registry's schema, to make others from.
    """
    return _migrated(postgres, "registry")


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """
    The address of a fresh migrated database, for the service's role.
    """
    return new_database()


@pytest.fixture(scope="session")
def new_database(postgres: Postgres, migrated: str) -> Callable[[], str]:
    """
    Makes a fresh migrated database and returns its address, for the service's role.
    """

    return partial(_copy_of, postgres, migrated)


@pytest.fixture(scope="session")
def new_assets_database(postgres: Postgres) -> Callable[[], str]:
    """
    Makes a fresh database with the asset service's schema and returns its address, for the service's role.
    """
    return partial(_copy_of, postgres, _migrated(postgres, "cdn"))


def _drop(supervisor: Supervisor, name: str, number: int) -> None:
    # Its data goes with the run: writing it down in good order took some ten seconds. A test may have ended it already.
    with suppress(KeyError):
        supervisor.kill(name, number)


def _migrated(postgres: Postgres, service: str) -> str:
    name = f"migrated_{service}"
    postgres.sql(f"CREATE DATABASE {name}")
    subprocess.run(
        [sys.executable, "-m", f"services.{service}.migrate"],
        env={"MODELYARD_DATABASE_URL": postgres.url(name), "PATH": ""},
        cwd=Path(__file__).resolve().parents[1],
        check=True,
        timeout=60,
    )
    return name


def _copy_of(postgres: Postgres, template: str) -> str:
    name = f"test_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    return postgres.url(name, SERVICE_ROLE)
