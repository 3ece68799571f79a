# ruff: noqa: S608 - names of tables of our own
"""
The audit by months: what was there stays, months come by themselves, and old ones can be taken out whole.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from embedded.postgres import SERVICE_ROLE, Postgres, binary, owner
from modelyard.registry.v1 import audit_pb2
from services.ledger.archive import ArchiveError, checksum, detach, months
from services.ledger.migrate import migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.calls import create
from services.registry.tests.server import Registry, running

INSERT = """
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id)
VALUES ($1, 1, $2, 'ann', 'CreateModel', 'namespaces/default', '')
"""
MANY = """
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id)
SELECT n, 1, now(), 'ann', 'CreateModel', 'namespaces/default', '' FROM generate_series(1000, 20000) AS n
"""
# This file is what the migration of this number makes of an audit that is one table.
NUMBER = 11


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """
    A connection to look behind the service's back.
    """
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_what_is_there_becomes_the_first_month(postgres: Postgres) -> None:
    """
    While the service writes, the table becomes partitioned: no write fails, no entry is lost, and all earlier entries
    are one partition that was not copied.
    """
    name = "audit_switched"
    postgres.sql(f"CREATE DATABASE {name}")
    files = migrations(FOLDER)
    async with connected(postgres.url(name)) as connection:
        await migrate(connection, files[: NUMBER - 1])
        rights = (FOLDER / "grants.sql").read_text(encoding="utf-8").partition("GRANT EXECUTE")[0]
        await connection.execute(rights.replace("$role", SERVICE_ROLE))
        await connection.execute(MANY)
        before = await connection.fetchval("SELECT relfilenode FROM pg_class WHERE oid = 'audit'::regclass")
        done = asyncio.Event()
        written = asyncio.create_task(_write(postgres.url(name, SERVICE_ROLE), done))
        await asyncio.sleep(0.2)
        await migrate(connection, files)
        await asyncio.sleep(0.2)
        done.set()
        count = await written
        assert count > 10
        assert await connection.fetchval("SELECT count(*) FROM audit") == 19_001 + count + 1
        assert await connection.fetchval("SELECT count(*) FROM audit_before") == 19_001 + count + 1
        assert await connection.fetchval("SELECT relfilenode FROM pg_class WHERE relname = 'audit_before'") == before
        # Again, as after an interruption: nothing is left to do.
        await connection.execute(f"DELETE FROM schema_migrations WHERE number >= {NUMBER}; DROP TABLE epoch, policies")
        await migrate(connection, files)
        assert await connection.fetchval("SELECT count(*) FROM audit") == 19_001 + count + 1


async def _write(url: str, done: asyncio.Event) -> int:
    count = 0
    async with connected(url) as service:
        while not done.is_set():
            await service.execute(INSERT, 100_000 + count, await service.fetchval("SELECT now()"))
            count += 1
    return count


async def test_months_come_by_themselves(new_database: Callable[[], str]) -> None:
    """
    A registry makes the months to come, each append-only for everybody and written through the whole table.
    """
    url = new_database()
    async with connected(owner(url)) as connection:
        there = [row["name"] for row in await months(connection)]
        assert there[0] == "audit_before"
        assert len(there) > 10
        for name in there[5:]:
            await connection.execute(f"DROP TABLE {name}")
        async with running(url) as registry:
            async with asyncio.timeout(20):
                while [row["name"] for row in await months(connection)] != there:
                    await asyncio.sleep(0.05)
            await create(registry, "m")
        later = await connection.fetchval("SELECT now() + interval '200 days'")
        async with connected(url) as service:
            await service.execute(INSERT, 5000, later)
            assert await service.fetchval("SELECT make_audit_partitions(12)") == 0
            for statement in ("DELETE FROM audit", f"DELETE FROM {there[-1]}", f"DROP TABLE {there[-1]}"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await service.execute(statement)
        name = await connection.fetchval("SELECT tableoid::regclass::text FROM audit WHERE revision = 5000")
        assert name == f"audit_{later:%Y_%m}"
        for statement in (
            f"DELETE FROM {name}",
            f"UPDATE {name} SET actor = 'x'",
            f"TRUNCATE {name}",
            "DELETE FROM audit",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute(statement)


async def test_old_months_are_taken_out(new_database: Callable[[], str]) -> None:
    """
    Partitions older than the retention are detached unchanged; a copy is verified by its checksum; by default nothing
    is detached.
    """
    url = new_database()
    async with connected(owner(url)) as connection, running(url) as registry:
        await create(registry, "m")
        with pytest.raises(ArchiveError, match="MODELYARD_AUDIT_KEEP_MONTHS is 0"):
            await detach(connection, 0)
        assert await detach(connection, 1) == []
        await _age(connection)
        assert await detach(connection, 1200) == []
        entries = await _list(registry)
        whole = await checksum(connection, "audit_before")
        assert whole[0] == len(entries) > 1
        assert await detach(connection, 1) == ["audit_before"]
        assert await _list(registry) == []
        assert await checksum(connection, "audit_before") == whole
        assert {row["name"]: row["attached"] for row in await months(connection)}["audit_before"] is False
        # Writes go on.
        await create(registry, "n")
        assert len(await _list(registry)) == 1
        command = [sys.executable, "-m", "services.registry.audit"]
        environ = {**os.environ, "MODELYARD_DATABASE_URL": owner(url)}
        for arguments, says in (
            ([], "audit_before  taken out"),
            (["--checksum", "audit_before"], f"{whole[0]} entries, checksum {whole[1]}"),
            (["--detach"], "MODELYARD_AUDIT_KEEP_MONTHS is 0"),
            (["--checksum", "models"], "there is no month models"),
        ):
            run = partial(subprocess.run, env=environ, capture_output=True, text=True, check=False)
            done = await asyncio.to_thread(run, [*command, *arguments])
            assert says in done.stderr, done.stderr


async def test_a_dump_of_a_month_is_verified(new_database: Callable[[], str], tmp_path: Path) -> None:
    """
    A month that was taken out, dumped and restored elsewhere, as the page says, has the same checksum there; a copy in
    which an entry differs has not.
    """
    url, scratch = owner(new_database()), owner(new_database())
    file = str(tmp_path / "audit_before.dump")
    async with connected(url) as connection, connected(scratch) as other:
        for n in range(100):
            await connection.execute(INSERT, 100 + n, await connection.fetchval("SELECT now()"))
        whole = await checksum(connection, "audit_before")
        await connection.execute("ALTER TABLE audit DETACH PARTITION audit_before CONCURRENTLY")
        await other.execute("ALTER TABLE audit DETACH PARTITION audit_before")
        await other.execute("DROP TABLE audit_before")
        dump = [str(binary("pg_dump")), "--format", "custom", "--table", "audit_before", "--file", file, url]
        restore = [str(binary("pg_restore")), "--exit-on-error", "--dbname", scratch, file]
        for command in (dump, restore):
            await asyncio.to_thread(partial(subprocess.run, command, check=True))
        assert await checksum(other, "audit_before") == whole
        await other.execute("ALTER TABLE audit_before DISABLE TRIGGER ALL")
        await other.execute("UPDATE audit_before SET actor = 'eve' WHERE revision = 150")
        assert await checksum(other, "audit_before") != whole


async def _age(connection: Any) -> None:
    """
    Make the first month one that ended long ago, with the months since then.
    """
    await connection.execute("""
    ALTER TABLE audit DISABLE TRIGGER audit_is_append_only;
    ALTER TABLE audit_before DISABLE TRIGGER audit_is_append_only;
    ALTER TABLE audit DETACH PARTITION audit_before;
    ALTER TABLE audit_before DROP CONSTRAINT audit_is_before;
    UPDATE audit_before SET time = '2020-01-15Z';
    ALTER TABLE audit ATTACH PARTITION audit_before FOR VALUES FROM (MINVALUE) TO ('2020-02-01Z');
    ALTER TABLE audit_before ENABLE TRIGGER audit_is_append_only;
    ALTER TABLE audit ENABLE TRIGGER audit_is_append_only;
    """)
    starts = await connection.fetchval(r"""
    SELECT min((regexp_match(pg_get_expr(relpartbound, oid), 'FROM \(''([^'']*)''\)'))[1]::timestamptz)
      FROM pg_class WHERE relname ~ '^audit_[0-9]{4}_[0-9]{2}$'
    """)
    since = f"FOR VALUES FROM ('2020-02-01Z') TO ('{starts}')"
    await connection.execute(f"CREATE TABLE audit_since PARTITION OF audit {since}")


async def _list(registry: Registry) -> list[Any]:
    found = await registry.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(page_size=100))
    return list(found.entries)
