# ruff: noqa: S608 - only constant column and table names are interpolated; values are parameters
"""
Static files in the database, with their objects in the bucket.

A write locks its path until the end of its transaction and commits a repair mark outside of the transaction; then it
changes the objects; then it writes the row and deletes the mark. So writes to one path are serialised in the bucket as
in the database, and after an interrupted write (a crash, a lost connection) `repair` finds the mark and restores the
objects from the row.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID, uuid4

from services.cdn.model.names import asset_name
from services.cdn.model.static_files import StaticDraft, StaticFile, StaticName
from services.cdn.store.delivery.static_objects import Original, StaticObjects
from services.cdn.store.objects.s3 import NoSuchKey
from services.cdn.store.retention.pins import Pins
from services.cdn.store.transactions import KEEPALIVE, keep_alive
from services.cdn.store.viewers import Viewer, visible
from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last

_COLUMNS = "static_files.sha256, cache_control, content_disposition, content_type, update_time, static_files.revision"

_GET = read(
    "static_files.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {_COLUMNS} FROM static_files JOIN assets USING (sha256) WHERE name = $1 AND {visible(2)}) AS found
       ON true
""",
)

LOCK = Statement("static_files.lock", "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))")
# After the lock, in a separate statement, so that it sees the previous write.
NOW = Statement("static_files.now", f"SELECT {_COLUMNS} FROM static_files WHERE name = $1")

ORIGINAL = Statement(
    "static_files.original",
    "SELECT sha256, size_bytes, media_type, encodings, private FROM assets WHERE sha256 = $1 AND state = 'LIVE'",
)
_SOURCE = Statement("static_files.source", f"{ORIGINAL.sql} AND {visible(2)}")

_MARK = Statement(
    "static_repairs.mark",
    """
INSERT INTO static_repairs (name, mark_time) VALUES ($1, now())
ON CONFLICT (name) DO UPDATE SET mark_time = excluded.mark_time
""",
)

_QUEUED = """
, queued AS (
    INSERT INTO invalidations (id, state, paths, wildcards, create_time)
    SELECT $11::uuid, 'QUEUED', ARRAY[$12::text], 0, clock_timestamp() FROM next WHERE $11::uuid IS NOT NULL
), unmarked AS (
    DELETE FROM static_repairs USING next WHERE name = $10
)
"""

_PUT = last(
    "static_files.put",
    f"""
{_QUEUED}
, made AS (
    INSERT INTO static_files (name, sha256, cache_control, content_disposition, content_type, update_time, revision)
    SELECT $10, $13, $14, $15, $18, clock_timestamp(), value FROM next
    ON CONFLICT (name) DO UPDATE
       SET sha256 = excluded.sha256, cache_control = excluded.cache_control,
           content_disposition = excluded.content_disposition, content_type = excluded.content_type,
           update_time = excluded.update_time,
           revision = excluded.revision
    RETURNING {_COLUMNS}
), unpinned AS (
    DELETE FROM pins USING next WHERE owner = $10 AND sha256 = $16 AND sha256 <> $13 RETURNING sha256, size_bytes
), touched AS (
    UPDATE assets SET touch_time = clock_timestamp() FROM unpinned WHERE assets.sha256 = unpinned.sha256
), pinned AS (
    INSERT INTO pins (owner, sha256, size_bytes, create_time)
    SELECT $10, $13, $17, clock_timestamp() FROM next
    ON CONFLICT (owner, sha256) DO NOTHING RETURNING size_bytes
), difference AS (
    SELECT (SELECT count(*) FROM pinned) - (SELECT count(*) FROM unpinned) AS assets,
           (SELECT coalesce(sum(size_bytes), 0) FROM pinned) - (SELECT coalesce(sum(size_bytes), 0) FROM unpinned)
           AS bytes
), counted AS (
    INSERT INTO owners AS known (owner, assets, bytes) SELECT $10, 1, $17 FROM next
    ON CONFLICT (owner) DO UPDATE
       SET assets = known.assets + (SELECT assets FROM difference),
           bytes = known.bytes + (SELECT bytes FROM difference)
)
SELECT made.revision AS written, made.* FROM made
""",
)

_DELETE = last(
    "static_files.delete",
    f"""
{_QUEUED}
, gone AS (
    DELETE FROM static_files USING next WHERE name = $10 RETURNING next.value
), unpinned AS (
    DELETE FROM pins USING next WHERE owner = $10 AND sha256 = $13 RETURNING sha256, size_bytes
), touched AS (
    UPDATE assets SET touch_time = clock_timestamp() FROM unpinned WHERE assets.sha256 = unpinned.sha256
), counted AS (
    UPDATE owners SET assets = assets - 1, bytes = bytes - size_bytes FROM unpinned WHERE owner = $10 AND assets > 1
), emptied AS (
    DELETE FROM owners USING unpinned WHERE owner = $10 AND assets = 1
)
SELECT gone.value AS written FROM gone
""",
)


class StaticFileStore:
    """
    Reads and writes static files.

    Args:
        database: with the rows.
        objects: writes the objects.
        pins: of the assets that they point at.
        has_edge: whether to invalidate changed paths at a CDN distribution.
    """

    def __init__(self, database: Database, objects: StaticObjects, pins: Pins, *, has_edge: bool) -> None:
        self._database, self._objects, self._pins, self._has_edge = database, objects, pins, has_edge

    async def get(self, name: StaticName, viewer: Viewer) -> Read[StaticFile]:
        """
        Raises:
            Missing: there is no such path, or the viewer may not see the asset that it points at.
        """
        row = await self._database.fetch_row(_GET, str(name), *viewer.parameters)
        if row["sha256"] is None:
            raise Missing("STATIC_FILE_NOT_FOUND", name, row["head"])
        return Read(to_static_file(name, row), row["head"])

    async def put(
        self, transaction: Transaction, name: StaticName, draft: StaticDraft, etag: str, viewer: Viewer
    ) -> StaticFile:
        """
        Point a path at an asset.

        Raises:
            Missing: there is no such asset, or the viewer may not see it.
            FailedPrecondition: it is private.
            Aborted: *etag* is given and does not match.
            ResourceExhausted: the quota of the path is exceeded.
        """
        before = await _lock(transaction, name)
        check_etag(name, etag, before.revision if before else 0)
        original = await self._original(transaction, draft.sha256, viewer)
        replaced = before.draft.sha256 if before else None
        exchange = (str(name), draft.sha256, original.size_bytes, replaced)
        await self._pins.check_exchange(transaction, *exchange)
        await self._database.fetch(_MARK, str(name))
        async with keep_alive(partial(transaction.row, KEEPALIVE)):
            try:
                await self._objects.write(name, draft, original)
            except NoSuchKey:
                raise Missing("ASSET_NOT_FOUND", asset_name(draft.sha256)) from None
        # Only after the bytes are copied, so that other writes to these assets do not wait for the copy.
        locked = await self._pins.lock(transaction, str(name), [draft.sha256, replaced] if replaced else [draft.sha256])
        if draft.sha256 not in locked:
            raise Missing("ASSET_NOT_FOUND", asset_name(draft.sha256))
        await self._pins.check_exchange(transaction, *exchange)
        kind = ChangeKind.UPDATED if before else ChangeKind.CREATED
        journal = Journal.of(name, kind, before.draft.image() if before else None, draft.image())
        rows = await transaction.last(
            _PUT,
            journal,
            *self._queueing(name),
            draft.sha256,
            draft.cache_control,
            draft.content_disposition,
            replaced,
            original.size_bytes,
            draft.content_type,
        )
        return to_static_file(name, rows[0])

    async def delete(self, transaction: Transaction, name: StaticName) -> None:
        """
        Delete a path.

        Raises:
            Missing: there is no such path.
        """
        before = await _lock(transaction, name)
        if before is None:
            raise Missing("STATIC_FILE_NOT_FOUND", name)
        await self._database.fetch(_MARK, str(name))
        async with keep_alive(partial(transaction.row, KEEPALIVE)):
            await self._objects.remove(name)
        await self._pins.lock(transaction, str(name), [before.draft.sha256])
        journal = Journal.of(name, ChangeKind.DELETED, before.draft.image(), None)
        await transaction.last(_DELETE, journal, *self._queueing(name), before.draft.sha256)

    async def _original(self, transaction: Transaction, sha256: str, viewer: Viewer) -> Original:
        row = await transaction.row(_SOURCE, sha256, *viewer.parameters)
        if row is None:
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256))
        if row["private"]:
            raise FailedPrecondition(
                "ASSET_PRIVATE",
                f"{asset_name(sha256)} is private, and static files are public: use a presigned URL instead",
                metadata={"resource": asset_name(sha256)},
            )
        return to_original(row)

    def _queueing(self, name: StaticName) -> tuple[str, UUID | None, str]:
        return str(name), uuid4() if self._has_edge else None, name.url_path


async def _lock(transaction: Transaction, name: StaticName) -> StaticFile | None:
    await transaction.row(LOCK, str(name))
    row = await transaction.row(NOW, str(name))
    return None if row is None else to_static_file(name, row)


def to_static_file(name: StaticName, row: Row) -> StaticFile:
    """
    Convert a row of `NOW`.
    """
    draft = StaticDraft(row["sha256"], row["cache_control"], row["content_disposition"], row["content_type"])
    return StaticFile(name, draft, row["update_time"], row["revision"])


def to_original(row: Row) -> Original:
    """
    Convert a row of `ORIGINAL`.
    """
    return Original(row["sha256"], row["size_bytes"], row["media_type"], tuple(row["encodings"]))
