# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
One statement per list: the revision, whether the parent exists, and a page of rows, all of one snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from services.ledger.model.calls import Missing
from services.ledger.model.pages import Key, Listed, Page
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read

T = TypeVar("T")

# The maximum size of a page. Clients accept 4 MiB by default, and `octets` is an estimate.
MOST_OCTETS = 3 << 20


def page_of(name: str, rows: str, parent: str = "SELECT true") -> Statement:
    """
    The statement of a list.

    Args:
        name: see `Statement`.
        rows: selects the rows in order, one more than the page holds, each with a column `octets`. It may use the
            parent's columns, as `parent.id`.
        parent: selects the row of the parent, which may be missing.
    """
    sql = f"""
SELECT revision.value AS head, parent IS NOT NULL AS has_parent, page.*
  FROM {HEAD}
  LEFT JOIN ({parent}) AS parent ON true
  LEFT JOIN LATERAL (
       SELECT *
         FROM (SELECT found.*, count(*) OVER () AS found_count,
                      sum(octets) OVER (ROWS UNBOUNDED PRECEDING) - octets AS octets_before
                 FROM ({rows}) AS found) AS counted
        WHERE octets_before < {MOST_OCTETS}
       ) AS page ON parent IS NOT NULL
 ORDER BY octets_before
"""
    return read(name, sql)


def listed(
    page: Page,
    rows: Sequence[Row],
    missing: tuple[str, object],
    value: Callable[[Row], T],
    key: Callable[[Row], Sequence[Key]],
) -> Listed[T]:
    """
    Convert the rows of a `page_of` statement to a page.

    Args:
        missing: reason and name for when the parent is not there.
        value: of a row.
        key: the sort key of a row.

    Raises:
        Missing: there is no such parent.
    """
    head = rows[0]["head"]
    if not rows[0]["has_parent"]:
        raise Missing(*missing, head)
    if rows[0]["found_count"] is None:
        return Listed((), "", head)
    kept = rows[: page.size]
    more = rows[0]["found_count"] > len(kept)
    return Listed(tuple(map(value, kept)), page.query.token(key(kept[-1])) if more else "", head)


def after(page: Page, width: int) -> list[Any]:
    """
    The parameters that say where a page begins: its key, or NULLs for the first page; then how many rows to read.
    """
    return [*(page.after or [None] * width), page.size + 1]
