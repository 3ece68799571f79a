"""
An upgrade from an earlier release, as a rollout does it: the schema first, then one program after the other; and back.

`make test` upgrades from the newest of the earlier releases, `make drill-upgrade` from all of them, at a higher rate.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

import modelyard
from embedded.postgres import Postgres
from embedded.shared import Servers
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.registry.v1 import models_pb2
from tests.drills.rolling.load import Load
from tests.drills.upgrade.fleet import MIGRATED, ROOT, Data, Fleet, NoHistoryError, Release, releases

pytestmark = [pytest.mark.own_suite, pytest.mark.timeout(400)]
#: How many releases to upgrade from, the newest first.
COUNT = int(os.environ.get("MODELYARD_DRILL_UPGRADE_RELEASES", "1"))
#: Calls per second.
RATE = float(os.environ.get("MODELYARD_DRILL_UPGRADE_RATE", "8"))
#: Calls between two steps.
CALLS = max(6, round(RATE))


@pytest.fixture(scope="module")
def data(postgres: Postgres, run_servers: Servers, valkey: Valkey, worker: str) -> Data:
    """
    The run's data services, with empty databases and an empty Valkey.
    """
    databases = {name: f"upgrade_{worker}_{name}" for name in MIGRATED}
    return Data(postgres, databases, valkey, run_servers.s3())


@pytest.fixture(scope="module", params=releases()[:COUNT], ids=lambda release: release.name)
def fleet(request: pytest.FixtureRequest, data: Data) -> Iterator[tuple[Fleet, Release]]:
    """
    An earlier release, running on its own schema.
    """
    release: Release = request.param
    for name in data.databases.values():
        data.postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        data.postgres.sql(f"CREATE DATABASE {name}")
    with redis.Redis.from_url(data.valkey.whole_url) as client:
        client.flushall()
    with scratch() as state:
        try:
            running = Fleet(release, data, state)
        except NoHistoryError as error:
            pytest.skip(str(error))
        try:
            running.start()
            yield running, release
        finally:
            running.stop()


def test_upgrade_and_back(fleet: tuple[Fleet, Release]) -> None:
    """
    Under load the schema is migrated, the new release starts beside the old one, the old one ends, starts again, and
    the new one ends. No call fails, and afterwards the old one reads all that either has written. A creation is
    repeated only for the reasons in releases.toml, and only while both releases run.
    """
    running, release = fleet
    before = running.schema("registry")
    with Load([running.gateway], RATE, without=release.without, retried=release.retried) as load:
        load.wait_for_calls(CALLS)
        for name in release.services:
            if name in MIGRATED:
                running.migrate(name, "new")
        load.wait_for_calls(CALLS)
        assert not load.outcome.retries
        for arriving, leaving in (("new", "old"), ("old", "new")):
            running.start_services(arriving)
            load.wait_for_calls(CALLS)
            for name in release.services:
                running.terminate(name, leaving)
                load.wait_for_calls(CALLS // 2)
    found = load.outcome
    result = {
        "release": release.name,
        "schema": [before, running.schema("registry")],
        "calls": dict(found.calls),
        "failed": len(found.failed),
        "retries": dict(found.retries),
        "slowest_seconds": round(found.slowest, 3),
        "why": Counter(found.failed).most_common(5),
    }
    print(json.dumps(result))  # noqa: T201 - the drill's result
    assert not found.failed, found.failed[:20]
    with modelyard.connect(running.gateway) as yard:
        for name in found.created:
            assert yard.models.GetModel(models_pb2.GetModelRequest(name=name)).name == name
    if "watch" not in release.without:
        assert {found.watched[name] for name in found.created} == {1}


def test_an_older_schema_is_among_them() -> None:
    """
    One of the tested releases has an older schema than this one; otherwise nothing would show that an old release runs
    on the new schema.
    """
    migrations = {file.name for file in (ROOT / "services" / "registry" / "migrations").glob("[0-9]*.sql")}
    try:
        trees = [release.tree() for release in releases()[:COUNT]]
    except NoHistoryError as error:
        pytest.skip(str(error))
    assert any(
        len(list((tree / "services/registry/migrations").glob("[0-9]*.sql"))) < len(migrations) for tree in trees
    )
