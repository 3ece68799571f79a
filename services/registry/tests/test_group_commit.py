"""
Writes that are committed together: each is done as if it were alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import grpc
import pytest

from embedded.postgres import owner
from modelyard.registry.v1 import models_pb2, namespaces_pb2, versions_pb2
from services.ledger.model.calls import Write
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.transactions import Transaction
from services.ledger.store.writer import Writer
from services.registry.model.models import Model, ModelDraft
from services.registry.model.names import ModelName
from services.registry.store.models import ModelStore
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    get,
    move,
    record,
    result,
    revisions,
    sql,
    update,
)
from services.registry.tests.server import Registry, running

# `make check-properties` makes more, with more seeds.
SEEDS = int(os.environ.get("MODELYARD_CHECK_SEEDS", "1"))
OPERATIONS = 8 if SEEDS == 1 else 25


async def all_of(*calls: Awaitable[Any]) -> list[Any]:
    """
    The answers of calls that are made at once, errors included.
    """
    return await asyncio.gather(*calls, return_exceptions=True)


def code(answer: Any) -> grpc.StatusCode | None:
    """
    How a call ended.
    """
    return answer.code() if isinstance(answer, grpc.aio.AioRpcError) else None


def commits(registry: Registry) -> float:
    """
    How many transactions a registry has committed.
    """
    labels = {"statement": "write.commit"}
    return registry.server.metrics.registry.get_sample_value("modelyard_database_query_seconds_count", labels) or 0


async def test_each_has_its_own(registry: Registry) -> None:
    """
    Every write of a group has a revision, an audit entry, a change event and a remembered answer of its own.
    """
    requests = [models_pb2.CreateModelRequest(parent=DEFAULT, model_id=f"m{n}", request_id=f"r{n}") for n in range(40)]
    before = commits(registry)
    made = await all_of(*(registry.models.CreateModel(each) for each in requests))
    # They were grouped: otherwise this test shows nothing.
    assert 0 < commits(registry) - before < 20
    assert sorted(each.revision for each in made) == list(range(2, 42))
    told = await revisions(registry, 2, 41)
    by_revision = {each.revision: [change.resource for change in each.changes] for each in told}
    for model, request in zip(made, requests, strict=True):
        assert by_revision[model.revision] == [model.name]
        audited = await sql(registry, "SELECT request_id FROM audit WHERE revision = $1", model.revision)
        assert audited == request.request_id
        assert await registry.models.CreateModel(request) == model


async def test_a_failure_hurts_nobody_else(registry: Registry) -> None:
    """
    Writes that fail within a group, before or after it has a revision, fail alone and leave nothing behind.
    """
    await create(registry, "there")
    stale = (await create(registry, "stale")).etag
    await update(registry, "stale", models_pb2.Model(owner="x"), ["owner"])
    await registry.models.CreateModel(models_pb2.CreateModelRequest(parent=DEFAULT, model_id="used", request_id="used"))
    before = await sql(registry, "SELECT value FROM revision")
    lineage = versions_pb2.Lineage(parent_version=f"{DEFAULT}/models/none/versions/1")
    bad = [
        create(registry, "there"),
        registry.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/none", model_id="m")),
        update(registry, "stale", models_pb2.Model(owner="y", etag=stale), ["owner"]),
        add_version(registry, "there", lineage=lineage),
        registry.models.CreateModel(models_pb2.CreateModelRequest(parent=DEFAULT, model_id="x", request_id="used")),
    ]
    calls = [create(registry, f"m{n}") for n in range(40)]
    for place, call in enumerate(bad):
        calls.insert(place * 7, call)  # type: ignore[arg-type]
    answers = await all_of(*calls)
    assert [code(answers[place * 7]) for place in range(len(bad))] == [
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    ]
    assert sum(code(each) is None for each in answers) == 40
    assert await sql(registry, "SELECT value FROM revision") == before + 40
    assert await sql(registry, "SELECT count(*) FROM models") == 43
    assert (await get(registry, "there")).latest_version == 0


async def test_a_failing_statement_hurts_nobody_else(registry: Registry) -> None:
    """
    A database error in the last statement of one write rolls the group back, and then only that write fails.
    """
    connection = await asyncpg.connect(owner(registry.database))
    await connection.execute("""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF new.owner = 'unlucky' THEN RAISE EXCEPTION 'no'; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER refuses BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    await connection.close()
    owners = ["unlucky" if n in {3, 17, 30} else "lucky" for n in range(40)]
    answers = await all_of(*(create(registry, f"m{n}", models_pb2.Model(owner=who)) for n, who in enumerate(owners)))
    assert [n for n, each in enumerate(answers) if code(each) is grpc.StatusCode.INTERNAL] == [3, 17, 30]
    assert sum(code(each) is None for each in answers) == 37
    assert await sql(registry, "SELECT count(*) FROM models") == 37
    assert await sql(registry, "SELECT value FROM revision") == 38


async def test_one_model_at_a_time(registry: Registry) -> None:
    """
    Writes to one model never see a stale one: of those with the same etag one wins, and version numbers have no gaps.
    """
    made = await create(registry, "m")
    await create(registry, "n")
    updates = [update(registry, "m", models_pb2.Model(owner=f"o{n}", etag=made.etag), ["owner"]) for n in range(20)]
    versions = [add_version(registry, "mn"[n % 2], ready=False) for n in range(60)]
    mixed = [each for pair in zip(updates, versions[:20], strict=True) for each in pair]
    answers = await all_of(*mixed, *versions[20:])
    assert sum(isinstance(each, models_pb2.Model) for each in answers) == 1
    for model in "mn":
        own = [each.number for each in answers if isinstance(each, versions_pb2.Version) and f"/{model}/" in each.name]
        assert sorted(own) == list(range(1, 31))
        assert (await get(registry, model)).latest_version == 30


async def test_the_same_request_at_once(registry: Registry) -> None:
    """
    A request that is sent ten times at once is done once and answered ten times alike.
    """
    request = models_pb2.CreateModelRequest(parent=DEFAULT, model_id="m", request_id="r")
    others = [create(registry, f"o{n}") for n in range(10)]
    answers = await all_of(*(registry.models.CreateModel(request) for _ in range(10)), *others)
    assert len({each.SerializeToString(deterministic=True) for each in answers[:10]}) == 1
    assert not any(map(code, answers))
    assert await sql(registry, "SELECT count(*) FROM audit WHERE request_id = 'r'") == 1


async def test_a_failed_request_may_be_sent_again(registry: Registry) -> None:
    """
    A request id that a failed write used is free for the next try.
    """
    request = models_pb2.CreateModelRequest(parent="namespaces/later", model_id="m", request_id="r")
    others = [create(registry, f"o{n}") for n in range(5)]
    answers = await all_of(registry.models.CreateModel(request), *others)
    assert code(answers[0]) is grpc.StatusCode.NOT_FOUND
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="later"))
    assert (await registry.models.CreateModel(request)).name == "namespaces/later/models/m"


async def test_dry_runs_among_others(registry: Registry) -> None:
    """
    A dry run beside real writes writes nothing and has no revision.
    """
    dry = models_pb2.CreateModelRequest(parent=DEFAULT, model_id="dry", validate_only=True)
    calls: list[Any] = [create(registry, f"m{n}") for n in range(10)]
    answers = await all_of(registry.models.CreateModel(dry), *calls)
    assert not any(map(code, answers))
    assert answers[0].revision == 0
    assert await sql(registry, "SELECT count(*) FROM models") == 10


async def test_a_caller_that_goes_away(registry: Registry) -> None:
    """
    A cancelled call is done completely or not at all, and the others of its group are not affected.
    """
    calls = [asyncio.ensure_future(create(registry, f"m{n}")) for n in range(40)]
    await asyncio.sleep(0.01)
    for call in calls[::4]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    kept = [each for n, each in enumerate(answers) if n % 4]
    assert not any(map(code, kept))
    audited = await sql(registry, "SELECT count(*) FROM audit WHERE action = 'CreateModel'")
    assert audited == await sql(registry, "SELECT count(*) FROM models")
    assert await sql(registry, "SELECT count(*) = max(revision) FROM changes")


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_two_registries(database: str, seed: int) -> None:
    """
    Two processes that write to the same models in any order never stop each other.
    """
    dice = random.Random(seed)  # noqa: S311 - test data
    async with running(database) as one, running(database) as two:
        models = [f"m{n}" for n in range(6)]
        for model in models:
            await create(one, model)
            await add_version(one, model)

        async def work(registry: Registry) -> None:
            for _ in range(OPERATIONS):
                model = dice.choice(models)
                match dice.randrange(4):
                    case 0:
                        await update(registry, model, models_pb2.Model(owner="x"), ["owner"])
                    case 1:
                        await add_version(registry, model)
                    case 2:
                        await move(registry, model, ("a", 1), ("b", dice.randrange(2)))
                    case _:
                        await record(registry, *(result(each, 1, "d", "m", 1.0) for each in dice.sample(models, 3)))

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(registry) for registry in (one, two) for _ in range(8)))
        for model in models:
            latest = (await get(one, model)).latest_version
            assert latest == await sql(
                one, "SELECT count(*) FROM versions JOIN models ON id = model WHERE model_id = $1", model
            )
        assert await sql(one, "SELECT count(*) = max(revision) FROM changes")


def test_the_end_of_a_loop_splits_no_write(database: str) -> None:
    """
    When an event loop ends in the middle of a write, the write is whole or not there: never without its request id.
    """
    asyncio.run(_end_in_the_middle(database))


async def _end_in_the_middle(url: str) -> None:
    draft, parked, go = ModelDraft(), asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        # The loop is not to know of the generator that closes the pool: it may come to that one last.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        database = await stack.enter_async_context(open_database(DatabaseSettings(url=url)))
        sys.set_asyncgen_hooks(*hooks)
        models, writer = ModelStore(database), Writer(database)

        async def work(transaction: Transaction) -> Model:
            parked.set()
            await go.wait()
            return await models.create(transaction, ModelName("default", "m"), draft)

        write = Write("ann", "CreateModel", "r", "", b"digest")
        writing = asyncio.create_task(writer.run(write, work, lambda model: b"answer", [ModelName("default", "m")]))
        await parked.wait()
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.sleep(0.1)
        go.set()
        await asyncio.wait({writing})
    connection = await asyncpg.connect(url)
    try:
        counts = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("models", "requests")]  # noqa: S608
    finally:
        await connection.close()
    assert counts in ([0, 0], [1, 1])


async def test_times_go_with_revisions(registry: Registry) -> None:
    """
    A later revision has a later time, even if its transaction began earlier: readers by time miss nothing.
    """
    for model in ("first", "second"):
        await create(registry, model)
    connection = await asyncpg.connect(owner(registry.database))
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM models WHERE model_id = 'first' FOR UPDATE")
            waiting = asyncio.ensure_future(update(registry, "first", models_pb2.Model(owner="x"), ["owner"]))
            await until_one_waits(connection)
            second = await update(registry, "second", models_pb2.Model(owner="x"), ["owner"])
        first = await waiting
    finally:
        await connection.close()
    assert first.revision > second.revision
    assert first.update_time.ToDatetime() > second.update_time.ToDatetime()
    told = await sql(registry, "SELECT array_agg(commit_time ORDER BY revision) FROM changes")
    assert told == sorted(told)


async def until_one_waits(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Until a statement waits for a lock in a transaction that began before now, and will not be begun again.
    """
    waits = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND clock_timestamp() - xact_start > interval '0.2 s'
"""
    while not await connection.fetchval(waits):
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        await asyncio.sleep(0.01)
