"""
An upgrade from earlier releases, as a rollout does it: the schema first, then one program after the other; and back.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import modelyard
from embedded.testing import scratch
from modelyard.registry.v1 import models_pb2
from tests.drills.rolling.load import Load
from tests.drills.upgrade.fleet import Fleet, NoHistoryError, Release, releases

pytestmark = [pytest.mark.alone, pytest.mark.own_suite]
#: Calls a second.
RATE = float(os.environ.get("MODELYARD_DRILL_UPGRADE_RATE", "20"))


@pytest.fixture(scope="module", params=releases(), ids=lambda release: release.name)
def fleet(request: pytest.FixtureRequest) -> Iterator[tuple[Fleet, Release]]:
    """
    A release, running on its own schema.
    """
    release: Release = request.param
    with scratch() as state:
        try:
            running = Fleet(release, state)
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
    the new one ends: not one call fails, and at the end the old one reads all that either has written. A creation is
    repeated only for the reasons that releases.toml names, and only while both releases run.
    """
    running, release = fleet
    before = running.schema("registry")
    with Load([running.gateway], RATE, without=release.without, retried=release.retried) as load:
        time.sleep(1)
        for name in release.services:
            if name != "cache":
                running.migrate(name, "new")
        time.sleep(1)
        assert not load.outcome.retries
        running.begin("new")
        running.wait_for_both()
        time.sleep(1)
        for name in release.services:
            running.end(name, "old")
            time.sleep(0.3)
        running.begin("old")
        running.wait_for_both()
        time.sleep(1)
        for name in release.services:
            running.end(name, "new")
            time.sleep(0.3)
    found = load.outcome
    result = {
        "release": release.name,
        "schema": [before, running.schema("registry")],
        "calls": dict(found.made),
        "failed": len(found.failed),
        "retries": dict(found.retries),
        "slowest_seconds": round(found.slowest, 3),
        "why": Counter(found.failed).most_common(5),
    }
    print(json.dumps(result))  # noqa: T201 - what it has shown
    assert not found.failed, found.failed[:20]
    with modelyard.connect(running.gateway) as yard:
        for name in found.created:
            assert yard.models.GetModel(models_pb2.GetModelRequest(name=name)).name == name
    if "watch" not in release.without:
        assert {found.told[name] for name in found.created} == {1}


def test_an_older_schema_is_among_them() -> None:
    """
    One of the releases is older than the newest migration: else nothing would show that the old runs on the new schema.
    """
    assert any("watch" in release.without for release in releases())
