"""
Recycled databases: the tests of this package share one migrated database per process and restore it after each test.

`CREATE DATABASE … TEMPLATE` costs about 0.04 CPU seconds for each test, restoring the rows a twentieth of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from embedded.postgres import owner

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]  # generic in its stubs only
else:
    Connection = asyncpg.Connection

# What a test may have changed beside rows: the schema, settings, planner statistics, and size beyond a few megabytes.
_STATE = """
SELECT concat_ws(' ',
    (SELECT md5(string_agg(concat_ws(':', oid, relname, relkind, reltuples > 0 AND relkind = 'r', relhastriggers), ','
                           ORDER BY oid))
       FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT md5(string_agg(concat_ws(':', attrelid, attname), ',' ORDER BY attrelid, attnum))
       FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid AND relnamespace = 'public'::regnamespace),
    (SELECT md5(string_agg(concat_ws(':', oid, proname, md5(prosrc)), ',' ORDER BY oid))
       FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
    (SELECT md5(string_agg(concat_ws(':', oid, tgenabled), ',' ORDER BY oid)) FROM pg_trigger),
    (SELECT count(*) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
      WHERE datname = current_database()),
    pg_database_size(current_database()) > (SELECT size FROM initial.size) + 4000000)
"""

_TABLES = """
SELECT relname AS name,
       (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '') AS columns
  FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
   AND relname <> 'schema_migrations'
"""


_SEQUENCES = """
SELECT format('PERFORM setval(%L, %s, %L)', format('%I.%I', schemaname, sequencename),
              coalesce(last_value, start_value), last_value IS NOT NULL) AS statement
  FROM pg_sequences
"""

# A function, because PL/pgSQL prepares the statements once per session.
_RESTORE = """
CREATE FUNCTION initial.restore() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    {statements};
END $$
"""

# Work of a registry that goes on after its call was cancelled.
_BUSY = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state <> 'idle'
"""


class Databases:
    """
    Hands out a migrated database with its initial rows, and creates a new one only when the last one was altered.

    Args:
        create: a fresh migrated database; returns its URL for the service's role.
    """

    def __init__(self, create: Callable[[], str]) -> None:
        self._create = create
        self._url = ""
        self._state = ""
        self._connection: Connection | None = None

    async def acquire(self) -> str:
        """
        The URL of a database in its initial state, for the service's role.
        """
        if not self._url:
            url = self._create()
            await self._save(url)
            self._url = url
        return self._url

    async def release(self) -> bool:
        """
        Restore the initial rows, or drop the database from use when it cannot be restored.

        Returns:
            Whether the next test gets the same database.
        """
        try:
            restored = await self._try_restore()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            restored = False
        if not restored:
            self._url = ""
            await self.close()
        return restored

    async def close(self) -> None:
        """
        Close the connection that restores the rows.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.close(timeout=2)

    async def _save(self, url: str) -> None:
        connection = await self._connect(url)
        # As the registry does soon after it has started.
        await connection.execute("SELECT make_audit_partitions(12); CREATE SCHEMA initial")
        tables = await connection.fetch(_TABLES)
        restore = [f'DELETE FROM "{each["name"]}"' for each in tables]  # noqa: S608 - names from the catalog
        for each in tables:
            name, columns = each["name"], each["columns"]
            if await connection.fetchval(f'SELECT EXISTS (SELECT FROM "{name}")'):  # noqa: S608 - as above
                await connection.execute(f'CREATE TABLE initial."{name}" AS SELECT {columns} FROM "{name}"')  # noqa: S608 - as above
                copied = f'SELECT {columns} FROM initial."{name}"'  # noqa: S608 - as above
                restore.append(f'INSERT INTO "{name}" ({columns}) OVERRIDING SYSTEM VALUE {copied}')
        # To the change feed of a registry that stays, the database is one that was restored from a backup.
        restore.append("UPDATE epoch SET id = gen_random_uuid()")
        restore += [each["statement"] for each in await connection.fetch(_SEQUENCES)]
        await connection.execute(_RESTORE.format(statements="; ".join(restore)))
        await connection.execute("CREATE TABLE initial.size AS SELECT pg_database_size(current_database()) AS size")
        self._state = await connection.fetchval(_STATE)

    async def _try_restore(self) -> bool:
        async with asyncio.timeout(10):
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = await self._connect(self._url)
            while await connection.fetchval(_BUSY):
                await asyncio.sleep(0.01)
            if await connection.fetchval(_STATE) != self._state:
                return False
            await connection.fetchval("SELECT initial.restore()")
            return True

    async def _connect(self, url: str) -> Connection:
        # As a replica: no triggers, no foreign keys. For the session, because setting it discards prepared plans.
        settings = {"session_replication_role": "replica", "lock_timeout": "2s"}
        self._connection = await asyncpg.connect(owner(url), server_settings=settings)
        return self._connection
