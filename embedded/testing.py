"""
Fixtures with real servers: PostgreSQL, Valkey, S3 and whole suites; a database for each test from a template.

Use them with `pytest_plugins = ["embedded.testing"]` in the conftest of the whole tree. With pytest-xdist the workers
of a run share one PostgreSQL, one S3 server and one suite of each kind (`embedded.shared`); a Valkey is so cheap that
each worker has its own, which its tests may flush.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.parts import free_port
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.s3 import S3
from embedded.scratch import scratch
from embedded.shared import NOT_DURABLE, Endpoint, RunServers, Servers, remote
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor
from embedded.valkey import Valkey
from modelyard.registry.v1 import models_pb2

__all__ = ["NOT_DURABLE", "scratch", "until_the_cache_answers"]

_numbers = itertools.count(1)
_servers = pytest.StashKey[RunServers]()
_endpoint = pytest.StashKey[Endpoint]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """
    Tell a worker of pytest-xdist where the servers of the run are.
    """
    stash = node.config.stash
    if _endpoint not in stash:
        stash[_servers] = RunServers()
        stash[_endpoint] = Endpoint(stash[_servers])
    node.workerinput["servers"] = (stash[_endpoint].address, stash[_endpoint].key.hex())


def pytest_unconfigure(config: pytest.Config) -> None:
    """
    Stop the servers of the run in the process that owns them.
    """
    if (endpoint := config.stash.get(_endpoint, None)) is not None:
        endpoint.close()
    if (servers := config.stash.get(_servers, None)) is not None:
        servers.close()


@pytest.fixture(scope="session")
def run_servers(pytestconfig: pytest.Config) -> Servers:
    """
    The servers that all workers of this run share.
    """
    if (given := getattr(pytestconfig, "workerinput", None)) is not None:
        address, key = given["servers"]
        return remote(address, bytes.fromhex(key))
    if _servers not in pytestconfig.stash:
        pytestconfig.stash[_servers] = RunServers()
    return pytestconfig.stash[_servers]


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Supervisor, Path]]:
    """
    A supervisor for this worker's own servers, and their state folder.
    """
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        try:
            yield supervisor, state
        finally:
            supervisor.stop()


@pytest.fixture(scope="session")
def postgres(run_servers: Servers) -> Postgres:
    """
    The run's PostgreSQL server, which is not durable. Tests that stop or configure PostgreSQL start their own.
    """
    return run_servers.postgres()


@pytest.fixture(scope="session")
def valkey(servers: tuple[Supervisor, Path]) -> Valkey:
    """
    This worker's Valkey server.
    """
    server = Valkey(free_port())
    servers[0].start([server.part()])
    return server


@pytest.fixture(scope="session")
def s3(run_servers: Servers) -> S3:
    """
    The run's S3 server with its bucket. Object keys are chosen so that test files do not collide.
    """
    return run_servers.s3()


@pytest.fixture(scope="session")
def stack(run_servers: Servers) -> Stack:
    """
    The run's suite, without TLS and access control. Other tests write to it at the same time: do not stop or
    reconfigure its servers, expect only your own resources in lists, and use a namespace of your own for counts.
    """
    running = run_servers.stack("plain", StackSettings(state=Path(), gateway_port=0))
    with modelyard.connect(running.gateway) as client:
        until_the_cache_answers(client)
    return running


@pytest.fixture(scope="session")
def yard(stack: Stack) -> Iterator[modelyard.Client]:
    """
    A client of the suite's gateway.
    """
    with modelyard.connect(stack.gateway) as client:
        yield client


@pytest.fixture(scope="session")
def migrated(run_servers: Servers) -> str:
    """
    The name of a database with the registry's schema, to create others from.
    """
    return run_servers.template("registry")


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """
    The URL of a new migrated database, for the service's role.
    """
    return new_database()


@pytest.fixture(scope="session")
def new_database(postgres: Postgres, migrated: str, worker: str) -> Callable[[], str]:
    """
    Creates a migrated database and returns its URL, for the service's role.
    """
    return partial(_copy_of, postgres, migrated, worker)


@pytest.fixture(scope="session")
def new_assets_database(postgres: Postgres, run_servers: Servers, worker: str) -> Callable[[], str]:
    """
    Creates a database with the asset service's schema and returns its URL, for the service's role.
    """
    return partial(_copy_of, postgres, run_servers.template("cdn"), worker)


@pytest.fixture(scope="session")
def worker(pytestconfig: pytest.Config) -> str:
    """
    The name of this worker process, for names on shared servers.
    """
    given: dict[str, str] = getattr(pytestconfig, "workerinput", {"workerid": "main"})
    return given["workerid"]


def until_the_cache_answers(client: modelyard.Client) -> None:
    """
    Wait until the gateway asks the cache: right after the start it may ask the registry instead, because it has no
    connection to the cache yet.
    """
    get: Any = client.models.GetModel
    ends = time.monotonic() + 30
    while True:
        try:
            _, call = get.with_call(models_pb2.GetModelRequest(name="namespaces/default/models/nothing"))
        except grpc.RpcError as error:
            call = error
        if "x-cache" in dict(call.trailing_metadata()):
            return
        if time.monotonic() > ends:
            raise TimeoutError("the gateway does not ask the cache")
        time.sleep(0.05)


def _copy_of(postgres: Postgres, template: str, worker: str) -> str:
    name = f"test_{worker}_{next(_numbers)}"
    # Copies files. The default writes each page to the log and again to the file, which takes four times as long.
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return postgres.url(name, SERVICE_ROLE)
