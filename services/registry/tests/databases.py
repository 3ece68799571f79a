"""
Recycled databases: the tests of this package share one migrated database per process and restore it after each test.

`CREATE DATABASE … TEMPLATE` costs about 0.2 CPU seconds for each test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg

from embedded.postgres import owner

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


class Databases:
    """
    Hands out a migrated database with its initial rows, and creates a new one only when the last one was altered.

    Args:
        create: a fresh migrated database; returns its URL for the service's role.
    """

    def __init__(self, create: Callable[[], str]) -> None:
        self._create = create
        self._url = ""
        self._restore = ""
        self._state = ""

    def acquire(self) -> str:
        """
        The URL of a database in its initial state, for the service's role.
        """
        if not self._url:
            self._url = self._create()
            asyncio.run(self._save())
        return self._url

    def release(self) -> None:
        """
        Restore the initial rows, or drop the database from use when it cannot be restored.
        """
        try:
            restored = asyncio.run(self._try_restore())
        except (asyncpg.PostgresError, OSError, TimeoutError):
            restored = False
        if not restored:
            self._url = ""

    async def _save(self) -> None:
        connection = await asyncpg.connect(owner(self._url))
        try:
            # As the registry does soon after it has started.
            await connection.execute("SELECT make_audit_partitions(12); CREATE SCHEMA initial")
            tables = await connection.fetch(_TABLES)
            restore = ["SET LOCAL lock_timeout = '2s'; SET LOCAL session_replication_role = replica"]
            restore += [f'DELETE FROM "{each["name"]}"' for each in tables]  # noqa: S608 - names from the catalog
            for each in tables:
                name, columns = each["name"], each["columns"]
                if await connection.fetchval(f'SELECT EXISTS (SELECT FROM "{name}")'):  # noqa: S608 - as above
                    await connection.execute(f'CREATE TABLE initial."{name}" AS SELECT {columns} FROM "{name}"')  # noqa: S608 - as above
                    copied = f'SELECT {columns} FROM initial."{name}"'  # noqa: S608 - as above
                    restore.append(f'INSERT INTO "{name}" ({columns}) OVERRIDING SYSTEM VALUE {copied}')
            for row in await connection.fetch(
                "SELECT schemaname, sequencename, coalesce(last_value, start_value) AS value, last_value IS NOT NULL"
                " AS called FROM pg_sequences"
            ):
                restore.append(
                    f"SELECT setval('{row['schemaname']}.{row['sequencename']}', {row['value']}, {row['called']})"
                )
            await connection.execute("CREATE TABLE initial.size AS SELECT pg_database_size(current_database()) AS size")
            self._restore = f"BEGIN; {'; '.join(restore)}; COMMIT"
            self._state = await connection.fetchval(_STATE)
        finally:
            await connection.close()

    async def _try_restore(self) -> bool:
        async with asyncio.timeout(10):
            connection = await asyncpg.connect(owner(self._url))
            try:
                if await connection.fetchval(_STATE) != self._state:
                    return False
                await connection.execute(self._restore)
                return True
            finally:
                await connection.close()
