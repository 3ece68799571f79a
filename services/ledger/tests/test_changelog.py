# ruff: noqa: S608 - only numbers of our own go into these texts
"""
The change log and the stored responses are trimmed as fast as they grow, at a cost proportional to what is trimmed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from embedded.postgres import SERVICE_ROLE
from services.ledger.store.changelog import _TRIM, Changelog
from services.ledger.store.database import DatabaseSettings, open_database

LOG = 30_000
# More than a statement takes.
OLD = 12_000
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def url(new_database: Callable[[], str]) -> str:
    """
    A database with a long log: OLD revisions are two days old, the others are of today.
    """
    url = new_database()
    async with owner(url) as connection:
        await connection.execute(f"""
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
SELECT n, now() - CASE WHEN n <= {OLD} THEN 2 ELSE 0 END * interval '1 day', ARRAY['namespaces/default'], '{{1}}',
       '{{false}}'
  FROM generate_series(2, {LOG}) AS n;
UPDATE changes SET commit_time = now() - interval '2 days' WHERE revision = 1;
UPDATE revision SET value = {LOG};
INSERT INTO requests (actor, request_id, action, digest, create_time)
SELECT 'ann', n::text, 'x', '', now() - interval '2 days' FROM generate_series(1, {OLD}) AS n;
ANALYZE;
""")
    return url


@asynccontextmanager
async def owner(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    A connection of the database's owner.
    """
    connection = await asyncpg.connect(url.replace(SERVICE_ROLE, "postgres"))
    try:
        yield connection
    finally:
        await connection.close()


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The nodes of a plan.
    """
    return [plan, *(node for inner in plan.get("Plans", ()) for node in nodes(inner))]


async def test_all_that_is_old_is_trimmed(url: str) -> None:
    """
    One run deletes everything that is old, although a statement deletes only a part of it, and nothing else.
    """
    async with open_database(DatabaseSettings(url=url)) as database:
        log = Changelog(database)
        assert (await log.trim(DAY), await log.forget()) == (OLD, OLD)
        assert (await log.trim(DAY), await log.forget()) == (0, 0)
    async with owner(url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM changes") == LOG - OLD


async def test_trimming_reads_only_what_it_may_trim(url: str) -> None:
    """
    When nothing in a long log is old enough, trimming looks at its oldest 10,000 revisions, the newest, and no other.
    """
    async with owner(url) as connection:
        await connection.execute("VACUUM ANALYZE changes")
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {_TRIM.sql}", timedelta(days=365)))
    scans = [each for each in nodes(plan[0]["Plan"]) if each.get("Relation Name") == "changes"]
    read = sum((each["Actual Rows"] + each.get("Rows Removed by Filter", 0)) * each["Actual Loops"] for each in scans)
    assert 0 < read <= 10_001


async def test_a_request_that_is_claimed_again_stays(url: str) -> None:
    """
    An old request id that is claimed again while old ones are deleted is kept.
    """
    async with owner(url) as connection, open_database(DatabaseSettings(url=url)) as database:
        await connection.execute("""
INSERT INTO requests (actor, request_id, action, digest, create_time)
VALUES ('ann', 'again', 'x', '', now() - interval '2 days')
""")
        async with connection.transaction():
            await connection.execute("UPDATE requests SET create_time = now() WHERE request_id = 'again'")
            forgetting = asyncio.ensure_future(Changelog(database).forget())
            waits = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%requests%'
"""
            while not forgetting.done() and not await connection.fetchval(waits):
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)
        await forgetting
        assert await connection.fetchval("SELECT count(*) FROM requests WHERE request_id = 'again'") == 1
