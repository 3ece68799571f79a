# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
The audit log in the database: appended by every write (ledger/store/transactions.py), read here, immutable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.chassis.access.policies import Readable
from services.ledger.model.changes import Image
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import MOST_OCTETS, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.registry.model.audit import AuditEntry, AuditFilter
from services.registry.store.search.filters import Parameters

# The most JSON of a page, and of an entry: a larger one comes without its images and is marked as shortened.
_MOST_JSON = 1 << 20
_COLUMNS = f"""revision, ordinal, time, actor, action, resource, request_id, break_glass,
       CASE WHEN json.octets < {_MOST_JSON} THEN before END AS before,
       CASE WHEN json.octets < {_MOST_JSON} THEN after END AS after,
       json.octets >= {_MOST_JSON} AS shortened,
       256 + CASE WHEN json.octets < {_MOST_JSON} THEN json.octets * ({MOST_OCTETS} / {_MOST_JSON}) ELSE 0 END AS octets
"""
# Entries from before the column `octets` have to be read to be measured.
_JSON = """
LATERAL (SELECT coalesce(audit.octets, octet_length(before::text), 0) + CASE WHEN audit.octets IS NULL
                 THEN coalesce(octet_length(after::text), 0) ELSE 0 END AS octets)
"""
_EXACT = 2**53


class AuditStore:
    """
    Lists the audit.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_page(
        self, wanted: AuditFilter, page: Page, readable: Readable, since: Mapping[str, int], within: float | None
    ) -> Listed[AuditEntry]:
        """
        A page of the entries, the newest first.

        Args:
            readable: the namespaces whose entries the caller may read.
            since: the revisions from which on it may, of those that *readable* names.
            within: seconds that the caller has left, when that is known.

        Raises:
            DeadlineExceeded: it took longer than a search may.
        """
        found = await self._database.search(*_statement(wanted, page, readable, since), within=within)
        fitting = _fitting(found) if found[0]["found_count"] else []
        entries = iter(fitting)
        kept = found[: len(fitting) or 1]
        return listed(page, kept, ("", ""), lambda _: next(entries), lambda row: [row["revision"], row["ordinal"]])


def _statement(
    wanted: AuditFilter, page: Page, readable: Readable, since: Mapping[str, int]
) -> tuple[Statement, list[Any]]:
    parameters = Parameters(page.size + 1)
    where = ["true"]
    if wanted.prefix:
        # The resource itself, or from "prefix/" up to "prefix0", the next character.
        own, below, end = (parameters.add(wanted.prefix + tail, "text") for tail in ("", "/", "0"))
        where.append(f"(resource = {own} OR (resource >= {below} AND resource < {end}))")
    if not readable.everything:
        # The second part of a name is the namespace's id; the registry's own policy has none.
        names = parameters.add(readable.ordered, "text[]")
        if readable.others:
            where.append(f"(split_part(resource, '/', 2) = ANY({names})) <> true")
        else:
            begins = parameters.add([since.get(name, 0) for name in readable.ordered], "bigint[]")
            where.append(
                f"EXISTS (SELECT FROM unnest({names}, {begins}) AS own (name, begins)"
                "          WHERE name = split_part(resource, '/', 2) AND revision >= begins)"
            )
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
       {_JSON} AS json
"""
    return page_of("audit.list", found), parameters.values


def _bound(end: str, where: str, order: str) -> str:
    """
    The revision at one end of a time range, so that a query for an old range does not scan from the newest entry.

    Times go with revisions, but for a clock that was set back: the first thousand entries are looked at, not one.
    """
    return (
        f"(SELECT {end}(revision) FROM (SELECT revision FROM audit WHERE {where} ORDER BY {order} LIMIT 1000) AS edge)"
    )


def _fitting(rows: Sequence[Row]) -> list[AuditEntry]:
    """
    As many entries as fit a message.
    """
    fitting: list[AuditEntry] = []
    room = MOST_OCTETS
    for row in rows:
        entry = _entry(row)
        octets = _octets(entry.before) + _octets(entry.after)
        if octets > MOST_OCTETS:
            entry, octets = replace(entry, before=None, after=None, shortened=True), 0
        room -= octets + 256
        if room < 0 and fitting:
            break
        fitting.append(entry)
    return fitting


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        row["revision"],
        row["time"],
        row["actor"],
        row["action"],
        row["resource"],
        row["request_id"],
        _image(row["before"]),
        _image(row["after"]),
        row["shortened"],
        row["break_glass"],
    )


def _image(text: str | None) -> Image | None:
    image: Image | None = None if text is None else json.loads(text, parse_int=_integer)
    return image


def _integer(digits: str) -> int | str:
    number = int(digits)
    return number if -_EXACT <= number <= _EXACT else digits


def _octets(value: Any) -> int:
    """
    At least as many bytes as a value takes in a google.protobuf.Struct.
    """
    if isinstance(value, dict):
        return 10 + sum(20 + len(key.encode()) + _octets(each) for key, each in value.items())
    if isinstance(value, list):
        return 10 + sum(5 + _octets(each) for each in value)
    return 6 + len(value.encode()) if isinstance(value, str) else 9
