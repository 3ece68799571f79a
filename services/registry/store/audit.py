# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
The audit in the database: written by every write (store/writing.py), read here, changed by nobody.
"""

from __future__ import annotations

from typing import Any

from services.registry.model.audit import AuditEntry, AuditFilter
from services.registry.model.pages import Listed, Page
from services.registry.store.conditions import Parameters
from services.registry.store.database import Database
from services.registry.store.paging import MOST_OCTETS, listed, page_of
from services.registry.store.servers import Row
from services.registry.store.statements import Statement

# An entry that alone is larger than a page comes without its images, and says so.
_COLUMNS = f"""revision, ordinal, time, actor, action, resource, request_id,
       CASE WHEN sizes.octets < {MOST_OCTETS} THEN before END AS before,
       CASE WHEN sizes.octets < {MOST_OCTETS} THEN after END AS after,
       sizes.octets >= {MOST_OCTETS} AS shortened,
       CASE WHEN sizes.octets < {MOST_OCTETS} THEN sizes.octets ELSE 512 END AS octets"""
# A Struct is at most about twice as large as its JSON.
_SIZES = """
LATERAL (SELECT 256 + 2 * (coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0)) AS octets)
"""


class AuditStore:
    """
    Lists the audit.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_page(self, wanted: AuditFilter, page: Page, within: float | None) -> Listed[AuditEntry]:
        """
        A page of the entries, the newest first.

        Raises:
            DeadlineExceeded: it took longer than a search may.
        """
        found = await self._database.search(*_statement(wanted, page), within=within)
        return listed(page, found, ("", ""), _entry, lambda row: [row["revision"], row["ordinal"]])


def _statement(wanted: AuditFilter, page: Page) -> tuple[Statement, list[Any]]:
    parameters = Parameters(page.size + 1)
    where = ["true"]
    if wanted.prefix:
        # The resource itself, or from "prefix/" up to "prefix0", the next character.
        own, below, end = (parameters.add(wanted.prefix + tail, "text") for tail in ("", "/", "0"))
        where.append(f"(resource = {own} OR (resource >= {below} AND resource < {end}))")
    for column, value in (("actor", wanted.actor), ("action", wanted.action)):
        if value:
            where.append(f"{column} = {parameters.add(value, 'text')}")
    if wanted.start is not None:
        start = parameters.add(wanted.start, "timestamptz")
        where += [f"time >= {start}", f"revision >= {_bound('min', f'time >= {start}', 'time')}"]
    if wanted.end is not None:
        end = parameters.add(wanted.end, "timestamptz")
        where += [f"time < {end}", f"revision <= {_bound('max', f'time < {end}', 'time DESC')}"]
    if page.after is not None:
        revision, ordinal = (parameters.add(part, "bigint") for part in page.after)
        where.append(f"(revision, ordinal) < ({revision}, {ordinal})")
    found = f"""
SELECT {_COLUMNS}
  FROM (SELECT * FROM audit WHERE {" AND ".join(where)} ORDER BY revision DESC, ordinal DESC LIMIT $1) AS audit,
       {_SIZES} AS sizes
"""
    return page_of("audit.list", found), parameters.values


def _bound(end: str, where: str, order: str) -> str:
    """
    The revision at one end of a stretch of time, so that nobody reads from the newest entry down to an old stretch.

    Times go with revisions, but for a clock that was set back: the first thousand entries are looked at, not one.
    """
    return (
        f"(SELECT {end}(revision) FROM (SELECT revision FROM audit WHERE {where} ORDER BY {order} LIMIT 1000) AS edge)"
    )


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        row["revision"],
        row["time"],
        row["actor"],
        row["action"],
        row["resource"],
        row["request_id"],
        row["before"],
        row["after"],
        row["shortened"],
    )
