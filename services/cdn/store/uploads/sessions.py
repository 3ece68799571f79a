# ruff: noqa: S608 - only constant column and table names are interpolated; values are parameters
"""
Upload sessions in the database: their progress survives every process.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.cdn.model import Caller, Draft, Upload, UploadWay
from services.cdn.model.formats import Inspection
from services.cdn.store.objects.bucket import Part
from services.chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

_COLUMNS = (
    "id, sha256, size_bytes, media_type, owner, private, part_bytes, way, key, multipart, parts, hash_state, "
    "inspection, writer, create_time, expire_time, subject, coalesce(writing_until > now(), false) AS in_use"
)

_UNCLAIMED = "(finishing_until IS NULL OR finishing_until < now())"
_FREE = f"{_UNCLAIMED} AND (writing_until IS NULL OR writing_until < now())"
# TTL of an upload without a stored part: nothing is lost when it is restarted.
_KEPT_EMPTY = timedelta(minutes=10)
# Namespace of the ids of uploads of stored assets: derived from the digest, so that repeated calls add no rows.
_STORED = uuid.UUID("6d0cbe0e-6f0e-4a53-9f0b-0c6f1b7a8f55")

_OPEN = Statement(
    "uploads.open",
    f"""
INSERT INTO uploads (
    id, sha256, size_bytes, media_type, owner, private, part_bytes, create_time, expire_time, subject, client)
SELECT $1, $2, $3, $4, $5, $6, $7, now(), now() + $8, $11, $12
 WHERE ((SELECT count(*) FROM uploads WHERE multipart <> '') < $9
        AND (SELECT count(*) FROM uploads WHERE client = $12) < $10)
    OR EXISTS (SELECT FROM uploads WHERE (sha256, owner, private) = ($2, $5, $6))
ON CONFLICT (sha256, owner, private) DO UPDATE SET expire_time = greatest(uploads.expire_time, excluded.expire_time)
RETURNING {_COLUMNS}
""",
)

_OPENED = Statement("uploads.opened", "SELECT count(*) AS count FROM uploads WHERE client = $1")

_GET = Statement("uploads.get", f"SELECT {_COLUMNS} FROM uploads WHERE id = $1")

# Increments the fencing token: only parts of the newest writer count.
_ACQUIRE = Statement(
    "uploads.take",
    f"""
UPDATE uploads
   SET writer = writer + 1, writing_until = now() + $4,
       expire_time = CASE WHEN parts = 0 THEN greatest(expire_time, now() + $3) ELSE now() + $2 END
 WHERE id = $1 AND {_FREE}
RETURNING {_COLUMNS}
""",
)

# Not after the release: a renewal that was cancelled may still be executed, later than the release.
_RENEW_LEASE = Statement(
    "uploads.keep_writing",
    """
UPDATE uploads SET writing_until = now() + $3, expire_time = greatest(expire_time, now() + $4)
 WHERE id = $1 AND writer = $2 AND writing_until IS NOT NULL
RETURNING id
""",
)

_RELEASE_LEASE = Statement(
    "uploads.stop_writing", "UPDATE uploads SET writing_until = NULL WHERE id = $1 AND writer = $2"
)

# Of two concurrent calls, each with a multipart upload, the first one wins.
_BEGIN = Statement(
    "uploads.begin",
    f"""
UPDATE uploads
   SET way = $2, key = CASE WHEN multipart = '' THEN $3 ELSE key END,
       multipart = CASE WHEN multipart = '' THEN $4 ELSE multipart END,
       expire_time = greatest(expire_time, now() + $5)
 WHERE id = $1 AND way IN ('', $2)
RETURNING {_COLUMNS}
""",
)

_RECORD = Statement(
    "uploads.record",
    """
WITH moved AS (
    UPDATE uploads SET parts = $3, hash_state = $5, inspection = coalesce($6, inspection), expire_time = now() + $7
     WHERE id = $1 AND writer = $2 AND parts = $3 - 1
    RETURNING id
)
INSERT INTO upload_parts (upload, number, etag) SELECT id, $3, $4 FROM moved RETURNING number
""",
)

_PARTS = Statement("uploads.parts", "SELECT number, etag FROM upload_parts WHERE upload = $1 ORDER BY number")

_CLAIM = Statement(
    "uploads.claim",
    f"""
UPDATE uploads SET writer = writer + 1, finishing_until = now() + $2, expire_time = greatest(expire_time, now() + $2)
 WHERE id = $1 AND {_FREE}
RETURNING {_COLUMNS}
""",
)

_HELD = Statement("uploads.held", "SELECT writing_until > now() AS is_written FROM uploads WHERE id = $1")

# Not after the release, as above.
_RENEW_CLAIM = Statement(
    "uploads.keep_claim",
    """
UPDATE uploads SET finishing_until = now() + $3 WHERE id = $1 AND writer = $2 AND finishing_until IS NOT NULL
RETURNING id
""",
)

_RELEASE_CLAIM = Statement("uploads.let_go", "UPDATE uploads SET finishing_until = NULL WHERE id = $1 AND writer = $2")

_FINISHED = Statement(
    "uploads.finished",
    """
WITH gone AS (DELETE FROM uploads WHERE id = $1)
INSERT INTO finished_uploads (id, sha256, finish_time) VALUES ($1, $2, now())
ON CONFLICT (id) DO UPDATE SET finish_time = excluded.finish_time
""",
)

_WAS_FINISHED = Statement("uploads.was_finished", "SELECT sha256 FROM finished_uploads WHERE id = $1")

_DROP = Statement(
    "uploads.drop", f"DELETE FROM uploads WHERE id = $1 AND writer = coalesce($2, writer) RETURNING {_COLUMNS}"
)

_DROP_CONTENT = Statement(
    "uploads.drop_content",
    f"""
DELETE FROM uploads WHERE (sha256, owner, private) = ($1, $2, $3) AND {_UNCLAIMED} RETURNING {_COLUMNS}
""",
)

_DROP_EXPIRED = Statement(
    "uploads.drop_expired",
    f"""
DELETE FROM uploads
 WHERE id IN (SELECT id FROM uploads WHERE expire_time < now() AND {_UNCLAIMED}
               ORDER BY expire_time LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING {_COLUMNS}
""",
)

_KNOWN = Statement("uploads.known", "SELECT multipart FROM uploads WHERE multipart = ANY($1)")

_OPEN_IDS = Statement("uploads.open_ids", "SELECT id FROM uploads WHERE id = ANY($1)")

_FORGET = Statement(
    "uploads.forget",
    """
DELETE FROM finished_uploads WHERE id IN (
    SELECT id FROM finished_uploads WHERE finish_time < now() - interval '7 days' LIMIT 10000)
""",
)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """
    Limits of upload sessions.

    Args:
        ttl: of an inactive upload; at most ten minutes while no part is stored.
        most: number of open uploads with bytes.
        most_each: number of open uploads per client.
        lease: of a writer that receives no bytes.
    """

    ttl: timedelta
    most: int
    most_each: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Progress:
    """
    A stored part.

    Args:
        part: its number and ETag.
        hash_state: of SHA-256 after it; None where it cannot be saved.
        inspection: of the first part; None for the others.
    """

    part: Part
    hash_state: bytes | None
    inspection: Inspection | None


class UploadSessions:
    """
    Reads and writes upload sessions.

    Args:
        database: with the sessions.
        bounds: limits of the sessions.
    """

    def __init__(self, database: Database, bounds: UploadLimits) -> None:
        self._database = database
        self._bounds = bounds
        self._ttl, self._empty_ttl = bounds.ttl, min(bounds.ttl, _KEPT_EMPTY)

    @property
    def lease(self) -> timedelta:
        """
        Lease of a writer that receives no bytes.
        """
        return self._bounds.lease

    async def open(self, draft: Draft, caller: Caller) -> Upload:
        """
        Open an upload, or find the open one with the same content, owner, visibility and subject.

        Raises:
            ResourceExhausted: too many are open.
            InvalidArgument: the open one declares another size.
        """
        rows = await self._database.fetch(
            _OPEN,
            uuid.uuid4(),
            draft.sha256,
            draft.size_bytes,
            draft.media_type,
            _content_owner(draft, caller.subject),
            draft.private,
            draft.part_bytes,
            self._empty_ttl,
            self._bounds.most,
            self._bounds.most_each,
            caller.subject,
            caller.client,
        )
        if not rows:
            raise await self._too_many(caller)
        if rows[0]["size_bytes"] != draft.size_bytes:
            raise InvalidArgument.of("size_bytes", f"an open upload of this digest declares {rows[0]['size_bytes']:,}")
        return _upload(rows[0])

    async def get(self, upload: str) -> Upload:
        """
        Raises:
            NotFound: there is no such upload.
        """
        return _one(await self._database.fetch(_GET, uuid.UUID(upload)), upload)

    async def acquire_lease(self, upload: str) -> Upload:
        """
        Become the writer, and acquire the lease.

        Raises:
            NotFound: there is no such upload.
            Aborted: another call is writing or finishing it.
        """
        rows = await self._database.fetch(_ACQUIRE, uuid.UUID(upload), self._ttl, self._empty_ttl, self.lease)
        return await self._unclaimed(rows, upload)

    async def renew_lease(self, upload: Upload) -> bool:
        """
        Renew the lease; returns whether this is still the writer.
        """
        return bool(
            await self._database.fetch(_RENEW_LEASE, uuid.UUID(upload.id), upload.writer, self.lease, self._empty_ttl)
        )

    async def release_lease(self, upload: Upload) -> None:
        """
        Release the lease.
        """
        await self._database.fetch(_RELEASE_LEASE, uuid.UUID(upload.id), upload.writer)

    async def begin(self, upload: Upload, way: UploadWay, key: str, multipart: str) -> Upload:
        """
        Set how the bytes are sent and the multipart upload for them, unless set already. For direct uploads, whose
        bytes are not seen here, the TTL restarts.

        Returns:
            The upload, whose multipart upload may differ from *multipart*.

        Raises:
            FailedPrecondition: the upload uses the other way.
            NotFound: there is no such upload.
        """
        ttl = self._ttl if way is UploadWay.DIRECT else self._empty_ttl
        rows = await self._database.fetch(_BEGIN, uuid.UUID(upload.id), way, key, multipart, ttl)
        if not rows:
            check_way(await self.get(upload.id), way)
        return _one(rows, upload.id)

    async def record(self, upload: Upload, progress: Progress) -> Upload:
        """
        Record a part as committed.

        Raises:
            Aborted: another writer has taken over.
        """
        number, state = progress.part.number, progress.hash_state
        seen = None if progress.inspection is None else progress.inspection.encode()
        rows = await self._database.fetch(
            _RECORD, uuid.UUID(upload.id), upload.writer, number, progress.part.etag, state, seen, self._ttl
        )
        if not rows:
            raise Aborted("UPLOAD_TAKEN_OVER", f"{upload.name} was taken over by another writer, or ended")
        return replace(upload, parts=number, hash_state=state, inspection=progress.inspection or upload.inspection)

    async def parts(self, upload: Upload) -> list[Part]:
        """
        The parts that were streamed through this service.
        """
        rows = await self._database.fetch(_PARTS, uuid.UUID(upload.id))
        return [Part(row["number"], row["etag"]) for row in rows]

    async def claim(self, upload: str, seconds: float) -> Upload:
        """
        Claim the exclusive right to finish, for some seconds; fences off writers.

        Raises:
            NotFound: there is no such upload.
            Aborted: another call is writing or finishing it.
        """
        rows = await self._database.fetch(_CLAIM, uuid.UUID(upload), timedelta(seconds=seconds))
        return await self._unclaimed(rows, upload)

    async def renew_claim(self, upload: Upload, seconds: float) -> bool:
        """
        Renew the claim; returns whether it is still held.
        """
        return bool(
            await self._database.fetch(_RENEW_CLAIM, uuid.UUID(upload.id), upload.writer, timedelta(seconds=seconds))
        )

    async def release_claim(self, upload: Upload) -> None:
        """
        Release the claim.
        """
        await self._database.fetch(_RELEASE_CLAIM, uuid.UUID(upload.id), upload.writer)

    async def finished(self, upload: str, sha256: str) -> None:
        """
        Record the resulting asset, so that FinishUpload is idempotent.
        """
        await self._database.fetch(_FINISHED, uuid.UUID(upload), sha256)

    async def stored(self, draft: Draft, caller: Caller) -> tuple[str, Upload | None]:
        """
        Record an upload of bytes that are stored already, which needs no session.

        Returns:
            The id of a finished upload, and the open session for the content, which is dropped.
        """
        found = stored_id(draft.sha256)
        await self.finished(found, draft.sha256)
        owner = _content_owner(draft, caller.subject)
        rows = await self._database.fetch(_DROP_CONTENT, draft.sha256, owner, draft.private)
        return found, _upload(rows[0]) if rows else None

    async def was_finished(self, upload: str) -> str | None:
        """
        The digest of a finished upload; None if it is not known to be finished.
        """
        rows = await self._database.fetch(_WAS_FINISHED, uuid.UUID(upload))
        return rows[0]["sha256"] if rows else None

    async def drop(self, upload: str, writer: int | None = None) -> Upload | None:
        """
        Drop an upload and return it.

        Args:
            writer: drop it only if this is still its writer.
        """
        rows = await self._database.fetch(_DROP, uuid.UUID(upload), writer)
        return _upload(rows[0]) if rows else None

    async def drop_expired(self) -> list[Upload]:
        """
        Drop up to a hundred expired uploads and return them.
        """
        return [_upload(row) for row in await self._database.fetch(_DROP_EXPIRED)]

    async def forget(self) -> None:
        """
        Purge records of uploads finished a week ago, a bounded number per call.
        """
        await self._database.fetch(_FORGET)

    async def unknown(self, multiparts: Sequence[str]) -> set[str]:
        """
        The multipart uploads without a session.
        """
        rows = await self._database.fetch(_KNOWN, list(multiparts))
        return set(multiparts) - {row["multipart"] for row in rows}

    async def closed(self, uploads: Sequence[str]) -> set[str]:
        """
        The ids in *uploads* that are no longer open.
        """
        rows = await self._database.fetch(_OPEN_IDS, [uuid.UUID(upload) for upload in uploads])
        return set(uploads) - {str(row["id"]) for row in rows}

    async def _unclaimed(self, rows: Sequence[Row], upload: str) -> Upload:
        if rows:
            return _upload(rows[0])
        held = await self._database.fetch(_HELD, uuid.UUID(upload))
        if not held:
            raise NotFound("UPLOAD_NOT_FOUND", f"uploads/{upload}")
        if held[0]["is_written"]:
            raise Aborted(
                "UPLOAD_IN_USE",
                "another call is writing this upload: query its position, and resume once that call has stopped",
                retry_after=2.0,
            )
        raise Aborted("UPLOAD_FINISHING", "another call is finishing this upload: retry", retry_after=1.0)

    async def _too_many(self, caller: Caller) -> ResourceExhausted:
        bounds = self._bounds
        opened = await self._database.fetch_row(_OPENED, caller.client)
        if opened["count"] >= bounds.most_each:
            said = f"{opened['count']:,} of {bounds.most_each:,} uploads of this client are open: finish or abort some"
        else:
            said = f"{bounds.most:,} uploads are open, which is the limit: retry later"
        return ResourceExhausted("UPLOADS_OPEN", said, retry_after=60.0)


def stored_id(sha256: str) -> str:
    """
    The id of an upload of bytes that were already stored when it was started.
    """
    return str(uuid.uuid5(_STORED, sha256))


def _content_owner(draft: Draft, subject: str) -> str:
    # See the third migration.
    return f"{draft.owner}\n{subject}" if subject else draft.owner


def check_way(upload: Upload, way: UploadWay) -> None:
    """
    Raises:
        FailedPrecondition: *upload* uses the other way.
    """
    if upload.way in ("", way):
        return
    if upload.way == UploadWay.DIRECT:
        raise FailedPrecondition("UPLOAD_DIRECT", f"{upload.name} uses presigned URLs: PUT its parts there")
    raise FailedPrecondition("UPLOAD_STREAMED", f"{upload.name} was begun with WriteUpload: continue with it")


def _one(rows: Sequence[Row], upload: str) -> Upload:
    if not rows:
        raise NotFound("UPLOAD_NOT_FOUND", f"uploads/{upload}")
    return _upload(rows[0])


def _upload(row: Row) -> Upload:
    owner: str = row["owner"].partition("\n")[0]
    return Upload(
        id=str(row["id"]),
        draft=Draft(row["sha256"], row["size_bytes"], row["media_type"], owner, row["private"]),
        part_bytes=row["part_bytes"],
        way=UploadWay(row["way"]),
        key=row["key"],
        multipart=row["multipart"],
        parts=row["parts"],
        hash_state=row["hash_state"],
        inspection=None if row["inspection"] is None else Inspection.decode(row["inspection"]),
        writer=row["writer"],
        expire_time=row["expire_time"],
        subject=row["subject"],
        in_use=row["in_use"],
    )
