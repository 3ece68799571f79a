"""
Migrations: bring a service's database to the newest schema.

Numbered SQL files, forward only, each in a transaction of its own; one that begins with `-- outside a transaction`
builds indexes without blocking writes, statement by statement, and can be rerun after an interruption. Each file is
recorded with a checksum when it has run: if it changes afterwards, every later migration fails, because the
database's schema would be unknown. At the end the service's role is granted the privileges that it needs, no more.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from services.chassis.errors import ModelyardError
from services.chassis.settings import SettingsError, load
from services.ledger.settings import MigrationSettings
from services.ledger.store.database import connector, patiently
from services.ledger.store.pool import Connection

# The key of the advisory lock: any number that no other program uses on the same database.
_LOCK = 0x6D6F64656C79
_LOCK_TIMEOUT = "5s"
_LOCK_PAUSE = 0.1
_WAIT_PAUSE = 1.0
_OUTSIDE = "-- outside a transaction\n"
_GRANTS = "grants.sql"
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

#: How far revisions skip ahead after a restore: more than can have been assigned since the backup.
AHEAD = 1_000_000_000

_GO_ON = """
WITH next AS (
    UPDATE revision SET value = value + $1 RETURNING value
), renewed AS (
    UPDATE epoch SET id = gen_random_uuid()
)
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
SELECT value, now(), '{}', '{}', '{}' FROM next
RETURNING revision
"""

_HALF_BUILT = """
SELECT format('%I.%I', nspname, relname) AS name
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
 WHERE NOT indisvalid AND nspname = current_schema()
"""

_log = logging.getLogger(__name__)


class MigrationError(Exception):
    """
    The database cannot be migrated; the message says why and what to do.
    """


class NewerSchemaError(MigrationError):
    """
    A newer program has migrated the database.
    """


@dataclass(frozen=True, slots=True)
class Migration:
    """
    One numbered file.
    """

    number: int
    name: str
    sql: str

    @property
    def outside(self) -> bool:
        """
        Whether it runs outside a transaction.
        """
        return self.sql.startswith(_OUTSIDE)

    @property
    def sha256(self) -> str:
        """
        The checksum that is recorded.
        """
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path) -> list[Migration]:
    """
    The files of *folder* in order.

    Raises:
        MigrationError: a name is not NNNN_word.sql, or the numbers are not 1, 2, 3 …
    """
    found = []
    for path in sorted(set(folder.glob("*.sql")) - {folder / _GRANTS}):
        match = re.fullmatch(r"([0-9]{4})_[a-z0-9_]+\.sql", path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_first.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations must be numbered 0001, 0002 …; there are {[each.name for each in found]}")
    return found


async def migrate(connection: Connection, files: Sequence[Migration]) -> list[str]:
    """
    Run the files that have not run yet.

    Returns:
        The names of the files that ran.

    Raises:
        MigrationError: a file changed after it ran, or a file failed.
        NewerSchemaError: a newer program migrated the database.
    """
    # Concurrent migrations wait here, and then find nothing to do. It polls instead of waiting in the database: CREATE
    # INDEX CONCURRENTLY would wait for that statement, and that statement for the index.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 - not an Event's
        await asyncio.sleep(_LOCK_PAUSE)
    try:
        await connection.execute(_RECORD)
        rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
        _check(files, rows)
        pending = files[len(rows) :]
        for each in pending:
            await (_apply_outside(connection, each) if each.outside else _apply(connection, each))
        return [each.name for each in pending]
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


def _check(files: Sequence[Migration], rows: Sequence[asyncpg.Record]) -> None:
    known = {each.number: each for each in files}
    for row in rows:
        each = known.get(row["number"])
        if each is not None and each.sha256 != row["sha256"]:
            raise MigrationError(
                f"{each.name} has changed since it ran on this database: restore it, and put the change into a new file"
            )
    for row in rows:
        if row["number"] not in known:
            raise NewerSchemaError(f"the database has {row['name']}, which is newer than this program")


async def _apply(connection: Connection, each: Migration) -> None:
    try:
        async with connection.transaction():
            # A statement that waits for a lock on a busy table makes others queue behind it: fail and rerun instead.
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0")
            await connection.execute(each.sql)
            await _record(connection, each)
    except asyncpg.LockNotAvailableError:
        raise MigrationError(f"{each.name} waited {_LOCK_TIMEOUT} for a table that is in use: run it again") from None
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{each.name} failed and was rolled back: {error}") from error


async def _apply_outside(connection: Connection, each: Migration) -> None:
    statements = [part for part in _statements(each.sql) if re.sub(r"--.*", "", part).strip()]
    try:
        # IF NOT EXISTS would accept an invalid index that an interrupted run left behind.
        for row in await connection.fetch(_HALF_BUILT):
            await connection.execute(f"DROP INDEX CONCURRENTLY {row['name']}")
        for statement in statements:
            await connection.execute(statement)
        await _record(connection, each)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{each.name} was interrupted: run the migration again: {error}") from error


def _statements(sql: str) -> list[str]:
    """
    The statements of a file: what ends with a semicolon at the end of a line, but not within a function's body.
    """
    found = [""]
    # Every second part is within $$ … $$.
    for number, part in enumerate(sql.split("$$")):
        lines = [part] if number % 2 else re.split(r";\s*\n", part)
        found[-1] += ("$$" if number else "") + lines[0]
        found += lines[1:]
    return found


async def _record(connection: Connection, each: Migration) -> None:
    sql = "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)"
    await connection.execute(sql, each.number, each.name, each.sha256)


async def grant(connection: Connection, folder: Path, role: str) -> None:
    """
    Grant the service's role the privileges in the folder's grants.sql; create the role if it does not exist.

    Raises:
        MigrationError: *role* is not a plain name, or the owner may not do this.
    """
    if not _ROLE.fullmatch(role):
        raise MigrationError(f"MODELYARD_DATABASE_SERVICE_ROLE must match {_ROLE.pattern}")
    try:
        async with connection.transaction():
            # One at a time: concurrent GRANTs on the same object fail with "tuple concurrently updated".
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK + 1)
            await connection.execute((folder / _GRANTS).read_text(encoding="utf-8").replace("$role", role))
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"the role {role} cannot be given its rights: {error}. Make it beforehand if the owner may make no roles"
        ) from error


async def reached(connection: Connection) -> int:
    """
    The number of the newest migration that ran; 0 when none did.
    """
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_migrations"))


async def _wait(folder: Path, seconds: float) -> list[str]:
    newest, ends = len(migrations(folder)), time.monotonic() + seconds
    connect = connector(load(MigrationSettings).database(), statement_timeout="5s")
    while True:
        try:
            connection: Connection = await connect()
            try:
                number = await reached(connection)
            finally:
                await connection.close()
            if number >= newest:
                return []
            why = f"the database has migration {number} of {newest}"
        except (asyncpg.PostgresError, OSError, TimeoutError) as error:
            # Before the first migration neither the database nor the role may exist.
            why = str(error) or type(error).__name__
        if time.monotonic() >= ends:
            raise MigrationError(f"{why}, after {seconds:g} s: does the migration run?")
        _log.info("waiting for the schema: %s", why)
        await asyncio.sleep(_WAIT_PAUSE)


async def go_on_after_restore(connection: Connection) -> int:
    """
    Skip the revisions of a database that was restored from a backup far ahead of any that were assigned before.

    Otherwise the lost revisions would be assigned again to other changes, and clients that have seen the lost ones
    would miss these. With the gap and a new epoch every watcher is told to start over, and caches drop their entries.

    Returns:
        The first revision after the gap.
    """
    return int(await connection.fetchval(_GO_ON, AHEAD))


async def _restored() -> int:
    connect = connector(load(MigrationSettings).database(), statement_timeout="5s")
    connection: Connection = await connect()
    try:
        return await go_on_after_restore(connection)
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"cannot skip revisions: {error}. Restore the database first, and run this as its owner"
        ) from error
    finally:
        await connection.close()


async def _main(folder: Path) -> list[str]:
    settings = load(MigrationSettings)
    database = settings.database()
    connect = connector(database, statement_timeout="0")
    connection: Connection = await patiently(connect, database.startup)
    try:
        done = await migrate(connection, migrations(folder))
        await grant(connection, folder, settings.service_role)
        return done
    finally:
        await connection.close()


def main(folder: Path, argv: Sequence[str] | None = None) -> int:
    """
    Migrate the database that the environment names, or wait until another process has.

    Args:
        folder: of the migrations.
        argv: in place of the command line.

    Returns:
        The exit code: 0 when the database has the newest schema, or a newer one.
    """
    parser = argparse.ArgumentParser(description="Migrate the database to the newest schema of this release.")
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="change nothing; wait until the database has that schema, and fail after SECONDS",
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="after a restore from a backup, skip ahead to revisions that were never assigned; run no migration",
    )
    found = parser.parse_args(argv)
    wait = found.wait
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if found.restored:
            _log.info("revisions continue from %d", asyncio.run(_restored()))
            return 0
        done = asyncio.run(_main(folder) if wait is None else _wait(folder, wait))
    except NewerSchemaError as newer:
        # A rollback reruns the migration of an earlier release. The schema and the grants are left alone: the grants of
        # this release would revoke privileges from the newer program, which still runs.
        _log.info("%s: nothing is changed", newer)
        return 0
    except (MigrationError, ModelyardError, SettingsError) as error:
        _log.error("%s", error)
        return 1
    _log.info("%s", f"migrated: {', '.join(done)}" if done else "the database has the newest schema")
    return 0
