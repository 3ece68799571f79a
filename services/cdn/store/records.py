# ruff: noqa: S608 - only constant column and table names are interpolated; values are parameters
"""
Records of assets in the database.

Bytes without a row are never trusted: a row exists before anything is written to S3 under an asset's key (`reserve`),
and is deleted only after S3 has deleted the bytes (retention/garbage_collection.py). So S3 never has to be searched
for objects without a record (docs/adr/0015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.cdn.model import Asset, asset_name
from services.cdn.model.formats import Inspection
from services.cdn.store.rows import ASSET, to_asset
from services.cdn.store.viewers import Viewer, visible
from services.chassis.errors import Aborted, FailedPrecondition, Unavailable
from services.ledger.model.calls import Missing, Read
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last

_ASSET_AND_HEAD = f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {ASSET} FROM assets WHERE sha256 = $1 AND state = 'LIVE' AND {visible(2)}) AS found ON true
"""

_GET = read("assets.get", _ASSET_AND_HEAD)
# Read-your-writes: from the primary, never from a replica.
_GET_NOW = Statement("assets.get_now", _ASSET_AND_HEAD)

_TENSORS = read(
    "assets.tensors",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT assets.sha256, tensors.index FROM assets LEFT JOIN tensors USING (sha256)
              WHERE assets.sha256 = $1 AND state = 'LIVE') AS found ON true
""",
)

_LIST = page_of(
    "assets.list",
    f"""
SELECT {ASSET}, 400 AS octets FROM assets
 WHERE state = 'LIVE' AND ($1::text IS NULL OR sha256 > $1) AND {visible(3)}
 ORDER BY sha256 LIMIT $2
""",
)

_LIST_OF_OWNER = page_of(
    "assets.list_of_owner",
    f"""
SELECT {ASSET}, 400 AS octets FROM (SELECT sha256 FROM pins WHERE owner = $8) AS pinned JOIN assets USING (sha256)
 WHERE state = 'LIVE' AND ($1::text IS NULL OR sha256 > $1) AND {visible(3)}
 ORDER BY sha256 LIMIT $2
""",
)

# No owner has this name.
_NOBODY = ""

# Restarts the grace period, since the caller is about to use the assets; at most every ten minutes, to save writes. The
# subquery hides the number of digests from the planner, which would choose a sequential scan for a thousand.
_FIND = Statement(
    "assets.find",
    f"""
WITH touched AS (
    UPDATE assets SET touch_time = now()
     WHERE sha256 IN (SELECT sha256 FROM assets
                       WHERE sha256 = ANY(ARRAY(SELECT unnest($1::text[])))
                         AND state = 'LIVE' AND {visible(2)} AND touch_time < now() - interval '10 minutes'
                         FOR NO KEY UPDATE SKIP LOCKED)
)
SELECT sha256, private FROM assets
 WHERE sha256 = ANY(ARRAY(SELECT unnest($1::text[]))) AND state = 'LIVE' AND {visible(2)}
""",
)

# While a row is INCOMING, its create_time identifies the reservation.
_RESERVE = Statement(
    "assets.reserve",
    """
INSERT INTO assets (sha256, state, size_bytes, media_type, private, create_time, touch_time, revision)
VALUES ($1, 'INCOMING', $2, $3, $4, clock_timestamp(), now(), 0)
ON CONFLICT (sha256) DO UPDATE
   SET touch_time = now(),
       state = CASE WHEN assets.state = 'CONDEMNED' THEN 'INCOMING' ELSE assets.state END,
       create_time = CASE WHEN assets.state = 'CONDEMNED' THEN clock_timestamp() ELSE assets.create_time END,
       condemn_time = CASE WHEN assets.state = 'CONDEMNED' THEN NULL ELSE assets.condemn_time END
RETURNING state, create_time
""",
)

_LOCK = Statement("assets.lock", f"SELECT {ASSET}, state FROM assets WHERE sha256 = $1 FOR NO KEY UPDATE")

_REGISTER = last(
    "assets.register",
    f"""
, made AS (
    UPDATE assets
       SET state = 'LIVE', size_bytes = $11, media_type = $12, private = $13, format = $14, warnings = $15,
           encodings = $16, parameter_count = $17, verdict = $19, loads = $20, create_time = next.moment,
           touch_time = next.moment, condemn_time = NULL,
           revision = next.value
      FROM next
     WHERE sha256 = $10
    RETURNING {ASSET}
), indexed AS (
    INSERT INTO tensors (sha256, index) SELECT sha256, $18 FROM made WHERE $18::bytea IS NOT NULL
    ON CONFLICT (sha256) DO NOTHING
), counted AS (
    UPDATE totals SET assets = assets + 1, bytes = bytes + $11
)
SELECT made.revision AS written, made.* FROM made
""",
)

_PUBLISH = last(
    "assets.publish",
    f"""
, made AS (
    UPDATE assets
       SET private = false, media_type = $11, encodings = $12, touch_time = next.moment, revision = next.value
      FROM next
     WHERE sha256 = $10
    RETURNING {ASSET}
)
SELECT made.revision AS written, made.* FROM made
""",
)

_UPLOADED = Statement(
    "uploaders.add", "INSERT INTO uploaders (sha256, subject) VALUES ($1, $2) ON CONFLICT (sha256, subject) DO NOTHING"
)

_PINNED = Statement("pins.first_of_asset", "SELECT owner FROM pins WHERE sha256 = $1 LIMIT 1")

#: Argument: the digests.
CONDEMN = last(
    "assets.condemn",
    """
, gone AS (
    UPDATE assets SET state = 'CONDEMNED', condemn_time = next.moment, revision = next.value
      FROM next WHERE sha256 = ANY($10)
    RETURNING size_bytes
), counted AS (
    UPDATE totals SET assets = assets - (SELECT count(*) FROM gone),
                      bytes = bytes - (SELECT coalesce(sum(size_bytes), 0) FROM gone)
)
SELECT value AS written FROM next
""",
)


@dataclass(frozen=True, slots=True)
class VerifiedBytes:
    """
    Verified bytes in S3 under their asset's key, before the asset is registered.

    Args:
        sha256: its digest.
        size_bytes: their number.
        media_type: as declared.
        private: whether they are under the private key.
        reserved: result of `Records.reserve`, before they were written.
        inspection: of their format.
        encodings: of the stored variants.
    """

    sha256: str
    size_bytes: int
    media_type: str
    private: bool
    reserved: datetime
    inspection: Inspection
    encodings: tuple[str, ...] = ()


class Records:
    """
    Reads and writes the records of assets.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, sha256: str, viewer: Viewer) -> Read[Asset]:
        """
        Raises:
            Missing: there is no such asset, or the viewer may not see it.
        """
        return await self._get(_GET, sha256, viewer)

    async def get_now(self, sha256: str, viewer: Viewer) -> Read[Asset]:
        """
        As `get`, with read-your-writes consistency: not from a replica.
        """
        return await self._get(_GET_NOW, sha256, viewer)

    async def _get(self, statement: Statement, sha256: str, viewer: Viewer) -> Read[Asset]:
        row = await self._database.fetch_row(statement, sha256, *viewer.parameters)
        if row["sha256"] is None:
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256), row["head"])
        return Read(to_asset(row), row["head"])

    async def find(self, sha256: str, viewer: Viewer) -> Read[Asset] | None:
        """
        The asset, if it exists and the viewer may see it; restarts its grace period.
        """
        if not await self._database.fetch(_FIND, [sha256], *viewer.parameters):
            return None
        try:
            return await self.get_now(sha256, viewer)
        except Missing:
            return None

    async def stored(self, digests: Sequence[str], viewer: Viewer) -> dict[str, bool]:
        """
        Which of *digests* are stored and visible, and whether they are private; restarts their grace periods.
        """
        rows = await self._database.fetch(_FIND, list(digests), *viewer.parameters)
        return {row["sha256"]: row["private"] for row in rows}

    async def tensors(self, sha256: str) -> bytes:
        """
        The encoded tensor index (metadata/tensor_indexes.py decodes it), of an asset that the caller may see.

        Raises:
            Missing: there is no such asset.
            FailedPrecondition: it is not a safetensors file, or its header was too long to be indexed.
        """
        row = await self._database.fetch_row(_TENSORS, sha256)
        if row["sha256"] is None:
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256), row["head"])
        if row["index"] is None:
            raise FailedPrecondition("NOT_SAFETENSORS", f"{asset_name(sha256)} has no index of tensors")
        index: bytes = row["index"]
        return index

    async def list_page(self, page: Page, owner: str, viewer: Viewer) -> Listed[Asset]:
        """
        A page of the assets that the viewer may see, by digest.

        Args:
            owner: only assets that it pins; empty for all. A version that the viewer may not read pins nothing: which
                of the viewer's own uploads are in it would tell what it contains. A static file is as readable as its
                asset.
        """
        hidden = owner.startswith("namespaces/") and not viewer.reads(owner)
        statement, more = (_LIST_OF_OWNER, [_NOBODY if hidden else owner]) if owner else (_LIST, [])
        rows = await self._database.fetch(statement, *after(page, 1), *viewer.parameters, *more)
        return listed(page, rows, ("", ""), to_asset, lambda row: [row["sha256"]])

    async def reserve(self, sha256: str, size_bytes: int, media_type: str, *, private: bool) -> datetime:
        """
        Protect the asset's keys from deletion, before anything is written there.

        Returns:
            Identifies the reservation, or the asset if it exists: while the row has the same value, nothing was
            deleted.

        Raises:
            Unavailable: earlier bytes under these keys are being deleted.
        """
        rows = await self._database.fetch(_RESERVE, sha256, size_bytes, media_type, private)
        if rows[0]["state"] == "DELETING":
            raise Unavailable("ASSET_GOING", f"{asset_name(sha256)} is being deleted: retry", retry_after=2.0)
        reserved: datetime = rows[0]["create_time"]
        return reserved

    async def register(self, transaction: Transaction, verified: VerifiedBytes, uploader: str = "") -> Asset:
        """
        Make an asset visible whose bytes are in S3. An existing asset is not changed, except that a private one becomes
        public when its bytes were uploaded publicly; the private object stays for its presigned URLs.

        Args:
            uploader: the subject that has sent all bytes: it may see the asset from now on. Empty for none.

        Raises:
            Aborted: its reservation was lost.
        """
        row = await transaction.row(_LOCK, verified.sha256)
        if row is None or row["state"] in {"CONDEMNED", "DELETING"}:
            raise asset_going(verified.sha256)
        if uploader:
            await transaction.row(_UPLOADED, verified.sha256, uploader)
        before = to_asset(row)
        # Another reservation protects another upload's bytes: ours may have been deleted.
        ours = before.create_time == verified.reserved
        if row["state"] == "LIVE":
            if before.private and not verified.private:
                if not ours:
                    raise asset_going(verified.sha256)
                image = {"private": True, "media_type": before.media_type}
                journal = Journal.updated(before.name, image, {"private": False, "media_type": verified.media_type})
                args = verified.sha256, verified.media_type, list(verified.encodings)
                return to_asset((await transaction.last(_PUBLISH, journal, *args))[0])
            await transaction.nothing()
            return before
        if not ours:
            raise asset_going(verified.sha256)
        seen = verified.inspection
        image = {"size_bytes": verified.size_bytes, "media_type": verified.media_type, "private": verified.private}
        rows = await transaction.last(
            _REGISTER,
            Journal.created(before.name, image),
            verified.sha256,
            verified.size_bytes,
            verified.media_type,
            verified.private,
            seen.format,
            list(seen.warnings),
            list(verified.encodings),
            seen.parameter_count,
            None if seen.tensors is None else seen.tensors.encode(),
            seen.scan.verdict,
            list(seen.scan.loads),
        )
        return to_asset(rows[0])

    async def condemn(self, transaction: Transaction, sha256: str) -> None:
        """
        Condemn an unpinned asset.

        Raises:
            Missing: there is no such asset.
            FailedPrecondition: it is pinned.
        """
        row = await transaction.row(_LOCK, sha256)
        if row is None or row["state"] != "LIVE":
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256))
        # A separate statement, so that it sees the pins that were added while waiting for the lock.
        pin = await transaction.row(_PINNED, sha256)
        if pin is not None:
            raise FailedPrecondition(
                "ASSET_PINNED", f"{asset_name(sha256)} is pinned by {pin['owner']}", metadata={"owner": pin["owner"]}
            )
        await transaction.last(CONDEMN, condemned([to_asset(row)]), [sha256])


def asset_going(sha256: str) -> Aborted:
    """
    The error of an upload whose bytes may have been collected before it completed.
    """
    return Aborted("ASSET_GOING", f"{asset_name(sha256)} took too long to be stored: retry")


def condemned(assets: Sequence[Asset]) -> Journal:
    """
    The journal of a write that condemns assets.
    """
    journals = [Journal.of(asset.name, ChangeKind.DELETED, asset.image(), None) for asset in assets]
    return Journal(
        [change for one in journals for change in one.changes], [entry for one in journals for entry in one.entries]
    )
