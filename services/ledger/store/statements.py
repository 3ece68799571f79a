"""
Statements: SQL text with the name under which it is measured, logged and explained.
"""

from __future__ import annotations

from dataclasses import dataclass

# The newest revision, for reads: `revision.value`. From the log and not from the row that every write updates: while
# anybody has a snapshot open (pg_dump, a replica's feedback) the dead versions of that row stay, and every read would
# look at all of them. The log has a row for every revision, written with it, and trimming leaves the newest.
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
