# ruff: noqa: S608 - only names and numbers of our own go into these texts
"""
Purges of large models, of models that cannot be purged, and by clocks that disagree.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import grpc
import pytest

from embedded.postgres import owner
from modelyard.registry.v1 import models_pb2
from services.chassis.errors import Unavailable
from services.ledger.model.calls import Write
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.writer import Writer
from services.ledger.tests.statements import observed
from services.registry.model.names import ModelName
from services.registry.store.cleanup import background_cleanup
from services.registry.store.purging import Purging
from services.registry.tests.calls import DEFAULT, add_version, create, sql, sweeper
from services.registry.tests.server import Failing, Registry, running

M = f"{DEFAULT}/models/m"
VERSIONS, RESULTS, MOVES, CARDS, DEPLOYMENTS = 230, 12_000, 1500, 120, 150

GROW = f"""
INSERT INTO versions (model, number, state, description, artifacts, parent_version, training_data, run, git_commit,
                      stage, labels, size_bytes, create_time, update_time, revision, octets)
SELECT id, n, CASE WHEN n % 2 = 0 THEN 'READY' ELSE 'FAILED' END, '', '[]', '', '{{}}', '', '', '', '{{}}', 10, now(),
       now(), 2, 100
  FROM models, generate_series(2, {VERSIONS}) AS n WHERE model_id = $1;
UPDATE namespace_usage
   SET asset_bytes = asset_bytes + 10 * (SELECT count(*) FROM versions JOIN models ON id = model
                                          WHERE model_id = $1 AND state = 'READY' AND number > 1);
INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time, create_time,
                         revision, octets)
SELECT 'default', id, 1 + n % {VERSIONS}, 'd', 'm', n, '{{}}', now(), now(), 2, 512
  FROM models, generate_series(1, {RESULTS}) AS n WHERE model_id = $1;
INSERT INTO aliases (model, alias, version, valid, actor, revision)
SELECT id, 'a', 1 + n % {VERSIONS}, tstzrange(to_timestamp(n), to_timestamp(n + 1)), 'ann', 2
  FROM models, generate_series(1, {MOVES}) AS n WHERE model_id = $1;
INSERT INTO cards (model, number, sections, markdown, extra, front, update_time, actor, revision, octets)
SELECT id, n, '{{}}', 'words', '{{}}', '', now(), 'ann', 2, 512
  FROM models, generate_series(1, {CARDS}) AS n WHERE model_id = $1;
INSERT INTO deployments (namespace_id, deployment_id, model, model_id, version, environment, state, status_message,
                         endpoint, replicas, labels, create_time, update_time, revision, octets)
SELECT 'default', 'd' || n, id, $1, 1 + n % {VERSIONS}, 'e', 'RETIRED', '', '', 0, '{{}}', now(), now(), 2, 100
  FROM models, generate_series(1, {DEPLOYMENTS}) AS n WHERE model_id = $1;
"""


@pytest.fixture
async def unretained(database: str) -> AsyncIterator[Registry]:
    """
    A registry that retains deleted models for no time: they are due for purging at once.
    """
    async with running(database, MODELYARD_PURGE_AFTER_SECONDS="0") as found:
        yield found


async def delete(registry: Registry, model: str) -> models_pb2.Model:
    """
    Delete a model.
    """
    return await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/{model}"))


async def grow(registry: Registry, model: str) -> None:
    """
    Make a deleted model with more below it than may go in one write.
    """
    await create(registry, model)
    await add_version(registry, model)
    connection = await asyncpg.connect(owner(registry.database))
    try:
        for statement in GROW.split(";\n"):
            if statement.strip():
                await connection.execute(statement.replace("$1", f"'{model}'"))
    finally:
        await connection.close()
    await delete(registry, model)


async def left(registry: Registry) -> dict[str, int]:
    """
    How many rows there are.
    """
    tables = ("models", "versions", "evaluations", "aliases", "cards", "deployments")
    return {table: await sql(registry, f"SELECT count(*) FROM {table}") for table in tables}


async def test_a_large_model_goes_in_parts(unretained: Registry) -> None:
    """
    A large model is purged in several writes: each reports what it deleted, none deletes many rows while it holds the
    revision, and finally only the pins to be released are left.
    """
    await grow(unretained, "m")
    head = await sql(unretained, "SELECT value FROM revision")
    seen: list[str] = []
    with observed(unretained.database, lambda _connection, statement, _args: seen.append(statement.name)):
        async with open_database(DatabaseSettings(url=unretained.database)) as database:
            assert await sweeper(database).purge_due() == 1
    assert "models.purge" in seen
    held = False
    for name in seen:
        held = name == "revision.take" or (held and name not in {"write.commit", "write.rollback"})
        assert not (held and name.endswith(".purge") and name != "models.purge"), name
    assert set((await left(unretained)).values()) == {0}
    owed = await sql(unretained, "SELECT count(DISTINCT owner) FROM unpins WHERE owner LIKE $1", f"{M}/versions/%")
    assert owed == VERSIONS
    assert await sql(unretained, "SELECT (models, asset_bytes)::text FROM namespace_usage") == "(0,0)"
    parts = await sql(
        unretained, "SELECT json_agg(before->'purged')::text FROM audit WHERE before ? 'purged' AND resource = $1", M
    )
    taken: dict[str, int] = {}
    for part in json.loads(parts):
        for table, count in part.items():
            taken[table] = taken.get(table, 0) + count
    few = {"evaluations": 1000, "aliases": 1000, "cards": 50, "deployments": 0, "versions": 50}
    total = {
        "evaluations": RESULTS,
        "aliases": MOVES,
        "cards": CARDS,
        "deployments": DEPLOYMENTS,
        "versions": VERSIONS,
    }
    assert all(total[table] - taken[table] <= few[table] for table in few), taken
    gone = "SELECT count(*) FROM changes, unnest(resources) AS name WHERE revision > $1 AND name ~ '/deployments/'"
    assert await sql(unretained, gone, head) == DEPLOYMENTS
    assert await sql(unretained, "SELECT count(*) = max(revision) FROM changes")


async def test_what_is_half_gone_does_not_come_back(registry: Registry) -> None:
    """
    A partly purged model cannot be undeleted, and is due: the purge job deletes the rest.
    """
    await grow(registry, "m")
    async with open_database(DatabaseSettings(url=registry.database)) as database:
        writer = Writer(database)
        purging = Purging(database, writer)
        key = await purging.find(ModelName("default", "m"))
        assert key is not None
        await writer.run(
            Write("ann", "PurgeModel", "", "", b""),
            lambda tx: purging._part(tx, key, due=False),  # and then the process dies
            lambda _: b"",
            None,
        )
        with Failing() as failed:
            await registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=M))
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert await sweeper(database).purge_due() == 1
    assert set((await left(registry)).values()) == {0}


async def test_a_large_model_is_replaced(unretained: Registry) -> None:
    """
    A large deleted model is purged in parts before the one that takes its name.
    """
    await grow(unretained, "m")
    made = await create(unretained, "m", replace_deleted=True)
    assert made.latest_version == 0
    assert await left(unretained) == {
        "models": 1,
        "versions": 0,
        "evaluations": 0,
        "aliases": 0,
        "cards": 0,
        "deployments": 0,
    }


async def test_a_retry_purges_no_other_model(registry: Registry) -> None:
    """
    A purge of a large model that is sent again leaves alone what has its name by then.
    """
    await grow(registry, "m")
    request = models_pb2.PurgeModelRequest(name=M, request_id="r")
    await registry.models.PurgeModel(request)
    await grow(registry, "m")
    before = await left(registry)
    await registry.models.PurgeModel(request)
    assert await left(registry) == before
    assert before["evaluations"] == RESULTS


async def test_one_that_cannot_be_purged_stops_no_other(unretained: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """
    A model whose purge fails is left for the next time, counted and logged; those that are due after it are purged.
    """
    for model in ("stuck", "m", "n"):
        await create(unretained, model)
        await delete(unretained, model)
    connection = await asyncpg.connect(owner(unretained.database))
    await connection.execute("""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF old.model_id = 'stuck' THEN RAISE EXCEPTION 'no'; END IF;
        RETURN old;
    END $$;
    CREATE TRIGGER refuses BEFORE DELETE ON models FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    await connection.close()
    async with open_database(DatabaseSettings(url=unretained.database)) as database:
        own = sweeper(database)
        with caplog.at_level(logging.WARNING):
            assert await own.purge_due() == 2
        assert own.failures == 1
    assert "could not purge namespaces/default/models/stuck" in caplog.text
    assert await sql(unretained, "SELECT array_agg(model_id) FROM models") == ["stuck"]


@pytest.mark.parametrize("ahead", ["1 hour", "-1 hour"])
async def test_clocks_that_disagree(database: str, ahead: str) -> None:
    """
    Retention is measured by the database's clock, whatever this process's clock says; purging terminates.
    """
    connection = await asyncpg.connect(owner(database))
    name = await connection.fetchval("SELECT current_database()")
    for function in ("now", "clock_timestamp"):
        await connection.execute(f"""
CREATE FUNCTION public.{function}() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT pg_catalog.{function}() + interval '{ahead}' $$
""")
    await connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    await connection.close()
    async with running(database, MODELYARD_PURGE_AFTER_SECONDS="0") as registry:
        await create(registry, "m")
        await delete(registry, "m")
        async with open_database(DatabaseSettings(url=database)) as reached, asyncio.timeout(20):
            assert await sweeper(reached).purge_due() == 1
        assert await sql(registry, "SELECT count(*) FROM models") == 0


async def test_chores_fail_separately(unretained: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the log cannot be trimmed, yesterday's requests are forgotten and deleted models are purged all the same.
    """
    monkeypatch.setattr("services.registry.store.cleanup._EVERY_SECONDS", 0.05)
    await create(unretained, "m", request_id="r")
    await sql(unretained, "UPDATE requests SET create_time = now() - interval '2 days' RETURNING 1")
    await delete(unretained, "m")
    async with open_database(DatabaseSettings(url=unretained.database)) as database:
        log = Changelog(database)

        async def fails(_keep: timedelta) -> int:
            raise Unavailable("DATABASE_UNAVAILABLE", "it cannot be trimmed")

        monkeypatch.setattr(log, "trim", fails)
        async with background_cleanup(log, timedelta(days=1), sweeper(database)), asyncio.timeout(30):
            while await sql(unretained, "SELECT (SELECT count(*) FROM models) + (SELECT count(*) FROM requests)"):
                await asyncio.sleep(0.02)
