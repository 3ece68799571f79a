"""
Lists the monthly partitions of the audit log and detaches old ones for archiving (docs/operations/audit.md).

The service's role lacks the privileges: it can only append entries and create future partitions. Run this as the
owner of the database, as the migrations are.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.chassis.errors import ModelyardError
from services.chassis.settings import SettingsError, integer, load, setting
from services.ledger.settings import MigrationSettings
from services.ledger.store.database import connector
from services.ledger.store.pool import Connection

# Detached tables have the name of a month and are not partitions.
_MONTHS = r"""
SELECT part.relname AS name, inhrelid IS NOT NULL AND NOT coalesce(inhdetachpending, false) AS attached,
       coalesce(inhdetachpending, false) AS interrupted,
       (regexp_match(pg_get_expr(part.relpartbound, part.oid), 'TO \(''([^'']*)''\)'))[1]::timestamptz AS ends,
       pg_total_relation_size(part.oid) AS bytes
  FROM pg_class AS whole
  JOIN pg_class AS part ON part.relnamespace = whole.relnamespace AND part.relkind = 'r'
                       AND part.relname ~ '^audit_(before|[0-9]{4}_[0-9]{2})$'
  LEFT JOIN pg_inherits ON inhrelid = part.oid AND inhparent = whole.oid
 WHERE whole.oid = 'audit'::regclass
 ORDER BY part.relname <> 'audit_before', part.relname
"""

# Independent of the order of the rows: the sum of the hashes of all of them.
_CHECKSUM = """
SELECT count(*) AS entries, coalesce(sum(hashtextextended(entry::text, 0)::numeric), 0)::text AS checksum
  FROM {} AS entry
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings(MigrationSettings):
    """
    The settings for archiving.
    """

    keep_months: int = setting(
        "MODELYARD_AUDIT_KEEP_MONTHS",
        integer(0, 1200),
        default=0,
        help="months of the audit log to keep in the database besides the current one; 0 keeps all",
    )


class ArchiveError(Exception):
    """
    Archiving is not possible; the message says why.
    """


async def months(connection: Connection) -> list[asyncpg.Record]:
    """
    The partitions of the audit log, oldest first, and the tables that were detached but not dropped.
    """
    found: list[asyncpg.Record] = await connection.fetch(_MONTHS)
    return found


async def detach(connection: Connection, keep: int) -> list[str]:
    """
    Detach partitions older than some months. Reads and writes are not blocked.

    Args:
        keep: the number of whole months to keep besides the current one.

    Returns:
        The names of the detached tables; no data is deleted.

    Raises:
        ArchiveError: *keep* is 0.
    """
    if keep < 1:
        raise ArchiveError("MODELYARD_AUDIT_KEEP_MONTHS is 0: all months stay in reach")
    before = "SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => $1)) AT TIME ZONE 'UTC'"
    until = await connection.fetchval(before, keep)
    taken = []
    for row in await months(connection):
        if row["interrupted"]:
            await connection.execute(f"ALTER TABLE audit DETACH PARTITION {row['name']} FINALIZE")
        elif row["attached"] and row["ends"] is not None and row["ends"] <= until:
            await connection.execute(f"ALTER TABLE audit DETACH PARTITION {row['name']} CONCURRENTLY")
        else:
            continue
        taken.append(row["name"])
    return taken


async def checksum(connection: Connection, name: str) -> tuple[int, str]:
    """
    The number of entries of a month and a checksum over all of them: a copy is complete when both are equal.

    Raises:
        ArchiveError: there is no such month.
    """
    if name not in [row["name"] for row in await months(connection)]:
        raise ArchiveError(f"there is no month {name}: run this without arguments to see which there are")
    await connection.execute("SET timezone = 'UTC'; SET datestyle = 'ISO'")
    (row,) = await connection.fetch(_CHECKSUM.format(name))
    return row["entries"], row["checksum"]


async def _run(settings: ArchiveSettings, found: argparse.Namespace) -> list[str]:
    connection: Connection = await connector(settings.database(), statement_timeout="0")()
    try:
        if found.checksum:
            entries, total = await checksum(connection, found.checksum)
            return [f"{found.checksum}: {entries} entries, checksum {total}"]
        if found.detach:
            return [f"taken out: {name}" for name in await detach(connection, settings.keep_months)] or [
                "nothing to do"
            ]
        return [
            f"{row['name']}  {'in reach' if row['attached'] else 'taken out'}  {row['bytes']} bytes"
            for row in await months(connection)
        ]
    except asyncpg.PostgresError as error:
        raise ArchiveError(f"{error}: is this the owner of a migrated database?") from error
    finally:
        await connection.close()


def main(argv: Sequence[str] | None = None) -> int:
    """
    List the months of the audit log, detach old ones, or verify a copy.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="List the months of the audit, and take old ones out to be archived.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--detach", action="store_true", help="take out the months that are older than MODELYARD_AUDIT_KEEP_MONTHS"
    )
    what.add_argument("--checksum", metavar="NAME", help="count a month's entries, and sum up their hashes")
    found = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for line in asyncio.run(_run(load(ArchiveSettings), found)):
            _log.info("%s", line)
    except (ArchiveError, ModelyardError, SettingsError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0
