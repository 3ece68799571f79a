"""
`python -m services.registry.migrate`: bring the database to the newest schema.

Numbered SQL files, forward only, each in a transaction of its own. What ran is recorded with a checksum: a file that
changes after it ran makes every later migration refuse, because nobody could say any more which schema a database has.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from services.chassis.errors import ModelyardError
from services.chassis.settings import SettingsError, load
from services.registry.settings import MigrationSettings
from services.registry.store.database import connector, patiently
from services.registry.store.pool import Connection

FOLDER = Path(__file__).parent / "migrations"

# Any number that no other program on the same database uses for an advisory lock.
_LOCK = 0x6D6F64656C79
_LOCK_TIMEOUT = "5s"

_RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

_log = logging.getLogger(__name__)


class MigrationError(Exception):
    """
    The database cannot be migrated; the message says why and what to do.
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
    def sha256(self) -> str:
        """
        The checksum that is recorded.
        """
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """
    The files of *folder* in order.

    Raises:
        MigrationError: a name is not NNNN_word.sql, or the numbers are not 1, 2, 3 …
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"([0-9]{4})_[a-z0-9_]+\.sql", path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_first.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations must be numbered 0001, 0002 …; there are {[each.name for each in found]}")
    return found


async def migrate(connection: Connection, files: Sequence[Migration]) -> list[str]:
    """
    Run what has not run yet.

    Returns:
        The names of the files that ran.

    Raises:
        MigrationError: a file changed after it ran, a newer program migrated the database, or a file failed.
    """
    # Whoever starts at the same time waits here, and then finds everything done.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_RECORD)
        rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
        _check(files, rows)
        pending = files[len(rows) :]
        for each in pending:
            await _apply(connection, each)
        return [each.name for each in pending]
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


def _check(files: Sequence[Migration], rows: Sequence[asyncpg.Record]) -> None:
    known = {each.number: each for each in files}
    for row in rows:
        each = known.get(row["number"])
        if each is None:
            raise MigrationError(f"the database has {row['name']}, which this program does not know: run a newer one")
        if each.sha256 != row["sha256"]:
            raise MigrationError(
                f"{each.name} has changed since it ran on this database: restore it, and put the change into a new file"
            )


async def _apply(connection: Connection, each: Migration) -> None:
    try:
        async with connection.transaction():
            # A statement that waits for a busy table makes all others queue behind it: better to fail and be run again.
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0")
            await connection.execute(each.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
                each.number,
                each.name,
                each.sha256,
            )
    except asyncpg.LockNotAvailableError:
        raise MigrationError(f"{each.name} waited {_LOCK_TIMEOUT} for a table that is in use: run it again") from None
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{each.name} failed, and nothing of it was kept: {error}") from error


async def _main() -> list[str]:
    settings = load(MigrationSettings).database()
    files = migrations()
    connect = connector(settings, statement_timeout="0")
    connection: Connection = await patiently(connect, settings.startup)
    try:
        return await migrate(connection, files)
    finally:
        await connection.close()


def main() -> int:
    """
    Returns:
        The exit code: 0 when the database has the newest schema.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        done = asyncio.run(_main())
    except (MigrationError, ModelyardError, SettingsError) as error:
        _log.error("%s", error)
        return 1
    _log.info("%s", f"migrated: {', '.join(done)}" if done else "the database has the newest schema")
    return 0


if __name__ == "__main__":
    sys.exit(main())
