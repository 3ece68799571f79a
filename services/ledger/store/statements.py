"""
Statements: SQL text with the name under which it is measured, logged and explained.
"""

from __future__ import annotations

from dataclasses import dataclass

# The newest revision, for reads: `revision.value`. It is read from the log and not from the row that every write
# updates: while a snapshot is open (pg_dump, a replica's feedback), that row's dead tuples cannot be vacuumed, and
# every read would scan them. The log has a row for every revision, and trimming never deletes the newest.
HEAD = "(SELECT changes.revision AS value FROM changes ORDER BY changes.revision DESC LIMIT 1) AS revision"


@dataclass(frozen=True, slots=True)
class Statement:
    """
    A statement.

    Args:
        name: of the statement in metrics and logs, such as "models.get".
        sql: its text, with $1, $2 … for values.
        anywhere: it only reads, and every row has a column `head`, the revision that it reflects: a replica may answer
            it, because the caller can check whether the result is recent enough.
    """

    name: str
    sql: str
    anywhere: bool = False


def read(name: str, sql: str) -> Statement:
    """
    A statement that a replica may answer.
    """
    return Statement(name, sql, anywhere=True)
