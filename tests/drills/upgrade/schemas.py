"""
What a program that knows an older schema counts on, read from PostgreSQL's catalogs; and what a newer one takes away.
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
# What refuses rows: NOT NULL is among the columns.
_CONSTRAINTS = """
SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid), conrelid::regclass
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p', 'x', 'f')
 UNION
SELECT indrelid::regclass || ': ' || regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \\S+ ', 'INDEX '),
       indrelid::regclass
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
 WHERE indisunique AND relnamespace = 'public'::regnamespace
"""
_RIGHTS = f"""
SELECT privilege_type || ' on ' || table_name || '.' || column_name FROM information_schema.column_privileges
 WHERE grantee = '{SERVICE_ROLE}' AND table_schema = 'public'
"""  # noqa: S608 - our own name

# Plain ones, of columns and of all rows.
_UNIQUE = re.compile(r"(?:UNIQUE INDEX .* USING btree|PRIMARY KEY|UNIQUE) \(([\w\", ]+)\)$")


@dataclass(frozen=True, slots=True)
class Schema:
    """
    What programs count on.

    Args:
        columns: "table.column" → its type, and whether a row may come without it.
        constraints: what refuses rows, each with its table.
        rights: of the service's role.
    """

    columns: dict[str, tuple[str, bool]]
    constraints: dict[str, str]
    rights: frozenset[str]

    @classmethod
    def read(cls, postgres: Postgres, database: str) -> Schema:
        """
        That of a database.
        """
        columns = [line.split("|") for line in postgres.sql(_COLUMNS, database).splitlines()]
        constraints = (line.rpartition("|") for line in postgres.sql(_CONSTRAINTS, database).splitlines())
        return cls(
            {name: (kind, free == "t") for name, kind, free in columns},
            {text: table for text, _, table in constraints},
            frozenset(postgres.sql(_RIGHTS, database).splitlines()),
        )

    @property
    def tables(self) -> set[str]:
        """
        Their names.
        """
        return {name.partition(".")[0] for name in self.columns}


def _implied(text: str, table: str, before: Schema) -> bool:
    """
    Whether a unique index refuses no row that another one did not refuse: rows that differ in fewer columns differ in
    these.
    """
    found = _UNIQUE.search(text)
    olds = [_UNIQUE.search(each) for each, of in before.constraints.items() if of == table]
    return found is not None and any(old and _names(old[1]) <= _names(found[1]) for old in olds)


def _names(columns: str) -> set[str]:
    return {each.strip(' "') for each in columns.split(",")}


def taken_away(before: Schema, after: Schema) -> Iterator[str]:
    """
    What a program of *before* would miss in *after*, or what would refuse its rows.
    """
    for name, (kind, _) in before.columns.items():
        if name not in after.columns:
            yield f"column {name} is gone"
        elif after.columns[name][0] != kind:
            yield f"column {name} was {kind}, and is {after.columns[name][0]}"
        elif before.columns[name][1] and not after.columns[name][1]:
            yield f"column {name} has to be given now"
    for name, (_, free) in after.columns.items():
        if name not in before.columns and name.partition(".")[0] in before.tables and not free:
            yield f"column {name} is new, and has neither a default nor may it be null"
    for text, table in after.constraints.items():
        if table in before.tables and text not in before.constraints and not _implied(text, table, before):
            yield f"{text} is new, and may refuse rows"
    yield from (f"{each} is no longer granted" for each in sorted(before.rights - after.rights))
