"""
What the registry measures and logs of its statements, and how its pool behaves.
"""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest

from embedded.parts import free_port
from modelyard.registry.v1 import models_pb2
from services.chassis.settings import Address
from services.registry.tests.calls import DEFAULT, create, get, sql
from services.registry.tests.server import Failing, Registry, running


def sample(registry: Registry, name: str, **labels: str) -> float:
    """
    The value of one of the process's metrics; 0 while there is none.
    """
    return registry.server.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def fresh(database: str) -> AsyncIterator[Registry]:
    """
    A registry whose counters are zero.
    """
    async with running(database) as found:
        yield found


async def test_statements_are_counted(fresh: Registry) -> None:
    """
    Each statement is counted by its name: how often, how long, its rows, its errors.
    """
    registry = fresh
    await create(registry, "m")
    for _ in range(3):
        await get(registry, "m")
    query = "modelyard_database_query"
    assert sample(registry, f"{query}_seconds_count", statement="models.get") == 3
    assert sample(registry, f"{query}_rows_total", statement="models.get") == 3
    assert 0 < sample(registry, f"{query}_seconds_sum", statement="models.get") < 3
    assert sample(registry, f"{query}_seconds_count", statement="models.create") == 1
    await sql(registry, "ALTER TABLE models RENAME COLUMN owner TO proprietor")
    with Failing() as failed:
        await get(registry, "m")
    assert failed.code is grpc.StatusCode.INTERNAL
    await sql(registry, "ALTER TABLE models RENAME COLUMN proprietor TO owner")
    assert sample(registry, f"{query}_errors_total", statement="models.get", error="UndefinedColumnError") == 1


async def test_pool_is_measured(database: str) -> None:
    """
    The pool says how many connections it has and how many are idle, and never has more than it may.
    """
    async with running(database, MODELYARD_DATABASE_POOL_MAX="3") as registry:
        await create(registry, "m")
        pool = "modelyard_database_pool"
        request = models_pb2.ListModelsRequest(parent=DEFAULT)
        await asyncio.gather(*(registry.models.ListModels(request) for _ in range(50)))
        assert 2 <= sample(registry, f"{pool}_connections", server="primary") <= 3
        assert sample(registry, f"{pool}_most", server="primary") == 3
        assert sample(registry, f"{pool}_idle", server="primary") >= 1
        assert sample(registry, f"{pool}_waiting", server="primary") == 0


async def test_slow_statements_are_logged(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    A slow statement is logged with its name and time, with its plan if configured, and never with a value.
    """
    slow = {"MODELYARD_SLOW_QUERY_SECONDS": "0", "MODELYARD_SLOW_QUERY_PLANS": "true"}
    async with running(database, **slow) as registry:
        with caplog.at_level(logging.WARNING, logger="services.registry"):
            await create(registry, "secret-name", models_pb2.Model(description="secret words"))
            search = models_pb2.SearchModelsRequest(parent=DEFAULT, query="secret", filter='owner = "secret"')
            await registry.models.SearchModels(search)
            await get(registry, "secret-name")
            async with asyncio.timeout(5):
                while not re.search(r"plan of models\.get: .*Scan", caplog.text, re.DOTALL):
                    await asyncio.sleep(0.02)
    lines = [record.getMessage() for record in caplog.records]
    assert any(re.fullmatch(r"slow query: models\.create took \d+ ms.*", line) for line in lines)
    assert any(line.startswith("plan of models.create: ") for line in lines)
    assert not any("no plan of" in line for line in lines), lines
    assert "secret" not in caplog.text


async def test_nothing_is_slow_by_default(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """
    Statements that are as fast as they should be are not logged.
    """
    await create(registry, "m")
    caplog.clear()
    await asyncio.gather(*(get(registry, "m") for _ in range(20)))
    assert "slow query: models.get" not in caplog.text


async def test_scrape(registry: Registry) -> None:
    """
    The metrics page has all of it.
    """
    await create(registry, "m")
    port = free_port()
    with registry.server.metrics.serve(Address("127.0.0.1", port)):
        page = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
    assert 'modelyard_database_query_seconds_bucket{le="0.1",statement="models.create"}' in page
    assert 'modelyard_database_pool_connections{server="primary"}' in page


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
        return str(answer.read().decode())
