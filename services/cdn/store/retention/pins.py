# ruff: noqa: S608 - only constant SQL is interpolated; values are parameters
"""
Pins, which keep assets from garbage collection, and the usage and quota of their owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.cdn.model import asset_name
from services.cdn.store.viewers import Viewer, visible
from services.chassis.errors import ResourceExhausted
from services.ledger.model.calls import Missing
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last

# Lock order of all writes that change pins: the owner, then the assets by digest, then (with the revision) the owner's
# row. Writes that lock more than one of these take no part in group commit, where a second owner would be locked after
# the first one's assets. So no two of them deadlock. The advisory lock works for owners without a row, too.
_LOCK_OWNER = Statement("owners.lock", "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")

# Prevents that they are condemned meanwhile.
_LOCK = Statement(
    "pins.lock_assets",
    """
SELECT sha256, size_bytes FROM assets WHERE sha256 = ANY($1) AND state = 'LIVE' ORDER BY sha256 FOR NO KEY UPDATE
""",
)
# Pins of this owner are pins already: asked again, they are found whoever asks.
_VISIBLE = Statement(
    "pins.visible",
    f"SELECT sha256 FROM assets WHERE sha256 = ANY(ARRAY(SELECT unnest($1::text[]))) AND {visible(2)}",
)

_HELD = Statement(
    "owners.held",
    """
SELECT coalesce((SELECT bytes FROM owners WHERE owner = $1), 0) AS bytes,
       ARRAY(SELECT sha256 FROM pins WHERE owner = $1 AND sha256 = ANY(ARRAY(SELECT unnest($2::text[])))) AS pinned
""",
)

# For an owner that replaces one pinned asset by another.
_EXCHANGED = Statement(
    "owners.exchanged",
    """
SELECT coalesce((SELECT bytes FROM owners WHERE owner = $1), 0) AS bytes,
       EXISTS (SELECT FROM pins WHERE owner = $1 AND sha256 = $2) AS is_pinned,
       coalesce((SELECT size_bytes FROM pins WHERE owner = $1 AND sha256 = $3), 0) AS freed
""",
)

_PIN = last(
    "pins.add",
    """
, made AS (
    INSERT INTO pins (owner, sha256, size_bytes, create_time)
    SELECT $10, sha256, size_bytes, next.moment FROM assets, next WHERE sha256 = ANY($11)
    RETURNING size_bytes
), held AS (
    INSERT INTO owners (owner, assets, bytes)
    SELECT $10, count(*), coalesce(sum(size_bytes), 0) FROM made
    ON CONFLICT (owner) DO UPDATE
       SET assets = owners.assets + excluded.assets, bytes = owners.bytes + excluded.bytes
)
SELECT value AS written FROM next
""",
)

# Locked before the revision is assigned, since the write updates the assets.
_PINNED = Statement(
    "pins.of_owner",
    """
SELECT assets.sha256 FROM pins JOIN assets USING (sha256)
 WHERE owner = $1 AND ($2::text[] IS NULL OR assets.sha256 = ANY($2)) ORDER BY assets.sha256
   FOR NO KEY UPDATE OF assets
""",
)

# The grace period of an unpinned asset starts now.
_UNPIN = last(
    "pins.remove",
    """
, gone AS (
    DELETE FROM pins USING next WHERE owner = $10 AND sha256 = ANY(ARRAY(SELECT unnest($11::text[])))
    RETURNING sha256, size_bytes, next.moment
), touched AS (
    UPDATE assets SET touch_time = gone.moment FROM gone WHERE assets.sha256 = gone.sha256
), held AS (
    UPDATE owners
       SET assets = assets - (SELECT count(*) FROM gone),
           bytes = bytes - (SELECT coalesce(sum(size_bytes), 0) FROM gone)
     WHERE owner = $10
)
SELECT value AS written FROM next
""",
)

# Whether a viewer may read an owner's namespace: the names, and whether they are those that it may not read.
_READABLE = """((NOT ${1}::boolean AND namespace_of(owner) = ANY(${0}::text[]))
     OR (${1}::boolean AND namespace_of(owner) <> ALL(${0}::text[])))"""

# Decides about admission: must be read from the primary.
_OWNED = Statement("owners.get", "SELECT sum(bytes)::bigint AS bytes FROM owners WHERE owner = $1")

_VISIBLE_TOTALS = read(
    "totals.visible",
    f"""
SELECT revision.value AS head, found.assets, found.bytes
  FROM {HEAD}, (SELECT coalesce(sum(assets), 0)::bigint AS assets, coalesce(sum(bytes), 0)::bigint AS bytes
                  FROM owners WHERE {_READABLE.format(1, 2)}) AS found
""",
)

_TOTALS = read("totals.get", f"SELECT revision.value AS head, totals.assets, totals.bytes FROM {HEAD}, totals")

_OWNERS = page_of(
    "owners.list",
    f"""
SELECT owner, assets, bytes, 200 AS octets FROM owners
 WHERE starts_with(owner, $3) AND assets > 0 AND ($1::text IS NULL OR owner > $1) AND owner >= $3
   AND ($6 OR {_READABLE.format(4, 5)})
 ORDER BY owner LIMIT $2
""",
)


@dataclass(frozen=True, slots=True)
class OwnerUsage:
    """
    Usage of an owner.
    """

    owner: str
    assets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """
    Total usage, and a page of usage by owner.
    """

    assets: int
    bytes: int
    owners: Listed[OwnerUsage]


class Pins:
    """
    Adds and removes pins.

    Args:
        database: with the pins.
        quota: bytes that an owner may pin; 0 for no limit.
    """

    def __init__(self, database: Database, quota: int) -> None:
        self._database = database
        self._quota = quota

    async def add(self, transaction: Transaction, owner: str, digests: Sequence[str], viewer: Viewer) -> int:
        """
        Pin assets, all or none.

        Args:
            viewer: on whose behalf.

        Returns:
            Number of new pins.

        Raises:
            Missing: one of them does not exist, or the viewer may not see it.
            ResourceExhausted: the owner's quota is exceeded.
        """
        sizes = await self.lock(transaction, owner, digests)
        for digest in digests:
            if digest not in sizes:
                raise Missing("ASSET_NOT_FOUND", asset_name(digest))
        held = await transaction.row(_HELD, owner, list(digests))
        assert held is not None  # noqa: S101 - for the type checker: there is always one
        pinned = set(held["pinned"])
        fresh = [digest for digest in digests if digest not in pinned]
        if fresh and not viewer.sees_everything:
            # After the lock: the pins and uploads by which it sees them are committed.
            seen = {row["sha256"] for row in await transaction.rows(_VISIBLE, fresh, *viewer.parameters)}
            for digest in fresh:
                if digest not in seen:
                    raise Missing("ASSET_NOT_FOUND", asset_name(digest))
        if not fresh:
            await transaction.nothing()
            return 0
        self._check(owner, held["bytes"], sum(sizes[digest] for digest in fresh))
        journal = Journal.of(owner, ChangeKind.UPDATED, None, {"pinned": [asset_name(digest) for digest in fresh]})
        await transaction.last(_PIN, journal, owner, fresh)
        return len(fresh)

    async def remove(self, transaction: Transaction, owner: str, digests: Sequence[str]) -> int:
        """
        Remove pins.

        Args:
            digests: empty for all of the owner's.

        Returns:
            Number of removed pins.
        """
        await transaction.row(_LOCK_OWNER, owner)
        pinned = [row["sha256"] for row in await transaction.rows(_PINNED, owner, list(digests) or None)]
        if not pinned:
            await transaction.nothing()
            return 0
        journal = Journal.of(owner, ChangeKind.UPDATED, {"pinned": [asset_name(digest) for digest in pinned]}, None)
        await transaction.last(_UNPIN, journal, owner, pinned)
        return len(pinned)

    async def lock(self, transaction: Transaction, owner: str, digests: Sequence[str]) -> dict[str, int]:
        """
        Lock an owner and assets before changing their pins.

        Returns:
            The sizes of the existing ones by digest.
        """
        await transaction.row(_LOCK_OWNER, owner)
        return {row["sha256"]: row["size_bytes"] for row in await transaction.rows(_LOCK, list(digests))}

    async def check_exchange(
        self, transaction: Transaction, owner: str, digest: str, size_bytes: int, instead_of: str | None
    ) -> None:
        """
        Args:
            digest: of the asset to be pinned.
            instead_of: digest of the asset to be unpinned.

        Raises:
            ResourceExhausted: the owner's quota is exceeded.
        """
        held = await transaction.row(_EXCHANGED, owner, digest, instead_of)
        assert held is not None  # noqa: S101 - for the type checker: there is always one
        if not held["is_pinned"] and size_bytes > held["freed"]:
            self._check(owner, held["bytes"], size_bytes - held["freed"])

    async def check_room(self, owner: str, size_bytes: int, viewer: Viewer) -> None:
        """
        Raises:
            ResourceExhausted: pinning *size_bytes* more would exceed the owner's quota. For a viewer that may not read
                the owner's namespace, nothing is pinned yet.
        """
        if owner and self._quota:
            row = await self._database.fetch_row(_OWNED, owner)
            self._check(owner, (row["bytes"] or 0) if viewer.reads(owner) else 0, size_bytes)

    async def totals(self, page: Page, prefix: str, viewer: Viewer) -> Totals:
        """
        Total usage, and the usage of owners with this prefix. For a viewer that may not read every namespace: what the
        versions hold that it may read, where an asset counts once for each.
        """
        readable = viewer.readable
        args = readable.ordered, readable.others
        everything = readable.everything
        stored = await (
            self._database.fetch_row(_TOTALS) if everything else self._database.fetch_row(_VISIBLE_TOTALS, *args)
        )
        rows = await self._database.fetch(_OWNERS, *after(page, 1), prefix, *args, everything)
        owners = listed(page, rows, ("", ""), _holding, lambda row: [row["owner"]])
        return Totals(stored["assets"], stored["bytes"], owners)

    def _check(self, owner: str, held: int, more: int) -> None:
        if self._quota and held + more > self._quota:
            raise ResourceExhausted(
                "ASSET_QUOTA",
                f"{owner} holds {held:,} bytes of its quota of {self._quota:,}: {more:,} more would exceed it",
                metadata={"owner": owner, "quota_bytes": str(self._quota)},
            )


def _holding(row: Row) -> OwnerUsage:
    return OwnerUsage(row["owner"], row["assets"], row["bytes"])
