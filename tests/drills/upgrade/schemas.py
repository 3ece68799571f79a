"""
Schemas as PostgreSQL's catalogs describe them, and the changes between two that break programs of the older one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from embedded.postgres import SERVICE_ROLE, Postgres

_COLUMNS = """
SELECT table_name || '.' || column_name, data_type || ' ' || coalesce(udt_name, ''),
       is_nullable = 'YES' OR column_default IS NOT NULL OR is_generated = 'ALWAYS' OR is_identity = 'YES'
  FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migrations'
"""
# Everything that may reject rows except NOT NULL, which is among the columns.
_CONSTRAINTS = """
SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid), conrelid::regclass
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p', 'x', 'f')
 UNION
SELECT indrelid::regclass || ': ' || regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \\S+ ', 'INDEX '),
       indrelid::regclass
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
 WHERE indisunique AND relnamespace = 'public'::regnamespace
"""
_PRIVILEGES = f"""
SELECT privilege_type || ' on ' || table_name || '.' || column_name FROM information_schema.column_privileges
 WHERE grantee = '{SERVICE_ROLE}' AND table_schema = 'public'
"""  # noqa: S608 - a constant

# Of plain columns, without a condition.
_UNIQUE = re.compile(r"(?:UNIQUE INDEX .* USING btree|PRIMARY KEY|UNIQUE) \(([\w\", ]+)\)$")


@dataclass(frozen=True, slots=True)
class Schema:
    """
    What programs depend on.

    Args:
        columns: "table.column" → its type, and whether INSERT may omit it.
        constraints: the definition of each constraint and unique index → its table.
        privileges: those of the service's role.
    """

    columns: dict[str, tuple[str, bool]]
    constraints: dict[str, str]
    privileges: frozenset[str]

    @classmethod
    def read(cls, postgres: Postgres, database: str) -> Schema:
        """
        Read the schema of a database.
        """
        columns = [line.split("|") for line in postgres.sql(_COLUMNS, database).splitlines()]
        constraints = (line.rpartition("|") for line in postgres.sql(_CONSTRAINTS, database).splitlines())
        return cls(
            {name: (kind, optional == "t") for name, kind, optional in columns},
            {text: table for text, _, table in constraints},
            frozenset(postgres.sql(_PRIVILEGES, database).splitlines()),
        )

    @property
    def tables(self) -> set[str]:
        """
        The names of the tables.
        """
        return {name.partition(".")[0] for name in self.columns}


# CHECK constraints that accept more than the ones that they replace.
_WIDER = {
    "aliases: CHECK ((alias ~ '^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$'::text))": (
        "aliases: CHECK ((alias ~ '^[a-z][a-z0-9_-]{0,62}$'::text))"
    )
}


def _implied(text: str, table: str, before: Schema) -> bool:
    """
    Whether a unique index accepts every row that an earlier one on a subset of its columns accepted, or a constraint
    those of an earlier one.
    """
    if _WIDER.get(text) in before.constraints:
        return True
    found = _UNIQUE.search(text)
    earlier = [_UNIQUE.search(each) for each, of in before.constraints.items() if of == table]
    return found is not None and any(old and _names(old[1]) <= _names(found[1]) for old in earlier)


def _names(columns: str) -> set[str]:
    return {each.strip(' "') for each in columns.split(",")}


def breaking_changes(before: Schema, after: Schema) -> Iterator[str]:
    """
    The changes from *before* to *after* that a program of *before* may fail on.
    """
    for name, (kind, _) in before.columns.items():
        if name not in after.columns:
            yield f"column {name} was removed"
        elif after.columns[name][0] != kind:
            yield f"column {name} changed from {kind} to {after.columns[name][0]}"
        elif before.columns[name][1] and not after.columns[name][1]:
            yield f"column {name} has no default any more"
    for name, (_, optional) in after.columns.items():
        if name not in before.columns and name.partition(".")[0] in before.tables and not optional:
            yield f"column {name} is new, NOT NULL and without a default"
    for text, table in after.constraints.items():
        if table in before.tables and text not in before.constraints and not _implied(text, table, before):
            yield f"{text} is new, and may reject rows"
    yield from (f"{each} is no longer granted" for each in sorted(before.privileges - after.privileges))
