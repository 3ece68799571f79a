"""
The ledger's tables are the same in every database that has them (docs/adr/0014).
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import pytest

TABLES = ["audit", "changes", "epoch", "requests", "revision"]

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, collname, pg_get_expr(adbin, adrelid)
  FROM pg_attribute
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
  LEFT JOIN pg_collation ON pg_collation.oid = attcollation
 WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attname
"""

# Keys and checks; what is NOT NULL is among the columns.
RULES = """
SELECT contype::text, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE conrelid = $1::regclass AND contype <> 'n' ORDER BY 1, 2
"""

TRIGGERS = """
SELECT tgname, tgtype, proname FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
 WHERE tgrelid = $1::regclass AND NOT tgisinternal ORDER BY tgname
"""

MAY = """
SELECT privilege_type FROM information_schema.role_table_grants
 WHERE grantee = current_user AND table_name = $1 ORDER BY 1
"""


@pytest.fixture(scope="module")
def urls(new_database: Callable[[], str], new_assets_database: Callable[[], str]) -> list[str]:
    """
    A database of the registry and one of the asset service, which are only read.
    """
    return [new_database(), new_assets_database()]


@pytest.mark.parametrize("asked", [COLUMNS, RULES, TRIGGERS, MAY], ids=["columns", "rules", "triggers", "grants"])
@pytest.mark.parametrize("table", TABLES)
async def test_same_in_both(urls: list[str], table: str, asked: str) -> None:
    """
    A table of the ledger has the columns, keys, checks, triggers and grants in the asset service's database that it has
    in the registry's: the statements of the ledger run on both.
    """
    registry, cdn = [await ask(url, asked, table) for url in urls]
    assert registry == cdn
    # The revision and the epoch have no trigger, and the key of the audit is an index of its partitions.
    nothing = {("audit", RULES), *((each, TRIGGERS) for each in ("epoch", "requests", "revision"))}
    assert registry or (table, asked) in nothing


# The columns of a foreign key, and the first ones of each index of its table.
UNFOUND = """
SELECT conrelid::regclass::text || ': ' || pg_get_constraintdef(constraints.oid)
  FROM pg_constraint AS constraints
 WHERE contype = 'f' AND NOT EXISTS (
       SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
        WHERE indrelid = conrelid AND amname = 'btree' AND indpred IS NULL
          AND (indkey::int2[])[0:cardinality(conkey) - 1] @> conkey)
 ORDER BY 1
"""


async def test_what_refers_to_a_row_is_found_by_an_index(urls: list[str]) -> None:
    """
    Every foreign key has an index: otherwise each row that is deleted reads all those that might refer to it.
    """
    for url in urls:
        connection = await asyncpg.connect(url)
        try:
            assert [row[0] for row in await connection.fetch(UNFOUND)] == []
        finally:
            await connection.close()


async def ask(url: str, sql: str, table: str) -> list[tuple[object, ...]]:
    """
    What a database says of one of its tables.
    """
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql, table)]
    finally:
        await connection.close()
