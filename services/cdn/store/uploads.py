# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
How far uploads are, in the database: what is written here survives every process.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.cdn.model import Draft, Upload, UploadWay
from services.cdn.model.formats import Inspection
from services.cdn.store.bucket import Part
from services.chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement

_COLUMNS = (
    "id, sha256, size_bytes, media_type, owner, private, part_bytes, way, key, multipart, parts, hash_state, "
    "inspection, writer, create_time, expire_time"
)

_UNCLAIMED = "(finishing_until IS NULL OR finishing_until < now())"

_OPEN = Statement(
    "uploads.open",
    f"""
INSERT INTO uploads (id, sha256, size_bytes, media_type, owner, private, part_bytes, create_time, expire_time)
SELECT $1, $2, $3, $4, $5, $6, $7, now(), now() + $8
 WHERE (SELECT count(*) FROM uploads) < $9 OR EXISTS (SELECT FROM uploads WHERE (sha256, owner, private) = ($2, $5, $6))
ON CONFLICT (sha256, owner, private) DO UPDATE SET expire_time = excluded.expire_time
RETURNING {_COLUMNS}
""",
)

_GET = Statement("uploads.get", f"SELECT {_COLUMNS} FROM uploads WHERE id = $1")

# The newest writer's parts count, and no other's.
_TAKE = Statement(
    "uploads.take",
    f"""
UPDATE uploads SET writer = writer + 1, expire_time = now() + $2 WHERE id = $1 AND {_UNCLAIMED} RETURNING {_COLUMNS}
""",
)

# Two that begin at once make two multipart uploads; one of them is kept.
_BEGIN = Statement(
    "uploads.begin",
    f"""
UPDATE uploads
   SET way = $2, key = CASE WHEN multipart = '' THEN $3 ELSE key END,
       multipart = CASE WHEN multipart = '' THEN $4 ELSE multipart END,
       expire_time = now() + $5
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
 WHERE id = $1 AND {_UNCLAIMED}
RETURNING {_COLUMNS}
""",
)

_KEEP_CLAIM = Statement(
    "uploads.keep_claim",
    "UPDATE uploads SET finishing_until = now() + $3 WHERE id = $1 AND writer = $2 RETURNING id",
)

_LET_GO = Statement("uploads.let_go", "UPDATE uploads SET finishing_until = NULL WHERE id = $1 AND writer = $2")

_FINISHED = Statement(
    "uploads.finished",
    """
WITH gone AS (DELETE FROM uploads WHERE id = $1)
INSERT INTO finished_uploads (id, sha256, finish_time) VALUES ($1, $2, now()) ON CONFLICT (id) DO NOTHING
""",
)

_WAS_FINISHED = Statement("uploads.was_finished", "SELECT sha256 FROM finished_uploads WHERE id = $1")

_DROP = Statement(
    "uploads.drop", f"DELETE FROM uploads WHERE id = $1 AND writer = coalesce($2, writer) RETURNING {_COLUMNS}"
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
class Progress:
    """
    A part that is stored.

    Args:
        part: its number and etag.
        hash_state: of SHA-256 after it; None where it is not known.
        inspection: what the first part was recognised as; None for the others.
    """

    part: Part
    hash_state: bytes | None
    inspection: Inspection | None


class Uploads:
    """
    Reads and writes uploads.

    Args:
        database: where.
        ttl: how long an upload is kept when nobody writes.
        most: how many may be open.
    """

    def __init__(self, database: Database, ttl: timedelta, most: int) -> None:
        self._database = database
        self._ttl = ttl
        self._most = most

    async def open(self, draft: Draft) -> Upload:
        """
        Open an upload, or find the open one of the same content, owner and visibility.

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
            draft.owner,
            draft.private,
            draft.part_bytes,
            self._ttl,
            self._most,
        )
        if not rows:
            raise ResourceExhausted("UPLOADS_OPEN", f"{self._most} uploads are open: retry later", retry_after=60.0)
        if rows[0]["size_bytes"] != draft.size_bytes:
            raise InvalidArgument.of("size_bytes", f"an open upload of this digest declares {rows[0]['size_bytes']:,}")
        return _upload(rows[0])

    async def get(self, upload: str) -> Upload:
        """
        Raises:
            NotFound: there is no such upload.
        """
        return _one(await self._database.fetch(_GET, uuid.UUID(upload)), upload)

    async def take(self, upload: str) -> Upload:
        """
        Become the one who writes.

        Raises:
            NotFound: there is no such upload.
            Aborted: somebody is finishing it.
        """
        return await self._unclaimed(await self._database.fetch(_TAKE, uuid.UUID(upload), self._ttl), upload)

    async def begin(self, upload: Upload, way: UploadWay, key: str, multipart: str) -> Upload:
        """
        Say how the bytes come, and where they go; what was said first counts. The upload's time begins anew.

        Returns:
            The upload as it is: its multipart upload may be another one than *multipart*.

        Raises:
            FailedPrecondition: they come the other way.
            NotFound: there is no such upload any more.
        """
        rows = await self._database.fetch(_BEGIN, uuid.UUID(upload.id), way, key, multipart, self._ttl)
        if not rows:
            check_way(await self.get(upload.id), way)
        return _one(rows, upload.id)

    async def record(self, upload: Upload, progress: Progress) -> Upload:
        """
        A part is stored for good.

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
        The parts that came through us.
        """
        rows = await self._database.fetch(_PARTS, uuid.UUID(upload.id))
        return [Part(row["number"], row["etag"]) for row in rows]

    async def claim(self, upload: str, seconds: float) -> Upload:
        """
        Become the one who finishes, for some seconds; nobody writes any more.

        Raises:
            NotFound: there is no such upload.
            Aborted: somebody else is finishing it.
        """
        rows = await self._database.fetch(_CLAIM, uuid.UUID(upload), timedelta(seconds=seconds))
        return await self._unclaimed(rows, upload)

    async def keep_claim(self, upload: Upload, seconds: float) -> bool:
        """
        Go on finishing for some seconds more; whether that is still so.
        """
        return bool(
            await self._database.fetch(_KEEP_CLAIM, uuid.UUID(upload.id), upload.writer, timedelta(seconds=seconds))
        )

    async def let_go(self, upload: Upload) -> None:
        """
        Finish no longer.
        """
        await self._database.fetch(_LET_GO, uuid.UUID(upload.id), upload.writer)

    async def finished(self, upload: str, sha256: str) -> None:
        """
        The asset is there: remember which, for whoever finishes again.
        """
        await self._database.fetch(_FINISHED, uuid.UUID(upload), sha256)

    async def was_finished(self, upload: str) -> str | None:
        """
        The digest that a finished upload had; None when it is not known to be finished.
        """
        rows = await self._database.fetch(_WAS_FINISHED, uuid.UUID(upload))
        return rows[0]["sha256"] if rows else None

    async def drop(self, upload: str, writer: int | None = None) -> Upload | None:
        """
        Forget an upload: what it was.

        Args:
            writer: forget it only if that is still who writes.
        """
        rows = await self._database.fetch(_DROP, uuid.UUID(upload), writer)
        return _upload(rows[0]) if rows else None

    async def drop_expired(self) -> list[Upload]:
        """
        Forget uploads whose time is over, up to a hundred: what they were.
        """
        return [_upload(row) for row in await self._database.fetch(_DROP_EXPIRED)]

    async def forget(self) -> None:
        """
        Forget what was finished a week ago; a bounded number of them.
        """
        await self._database.fetch(_FORGET)

    async def unknown(self, multiparts: Sequence[str]) -> set[str]:
        """
        Those multipart uploads that belong to no upload.
        """
        rows = await self._database.fetch(_KNOWN, list(multiparts))
        return set(multiparts) - {row["multipart"] for row in rows}

    async def closed(self, uploads: Sequence[str]) -> set[str]:
        """
        Those of *uploads*, by their ids, that are open no longer.
        """
        rows = await self._database.fetch(_OPEN_IDS, [uuid.UUID(upload) for upload in uploads])
        return set(uploads) - {str(row["id"]) for row in rows}

    async def _unclaimed(self, rows: Sequence[Row], upload: str) -> Upload:
        if not rows:
            await self.get(upload)
            raise Aborted("UPLOAD_FINISHING", "another call is finishing this upload: ask again", retry_after=1.0)
        return _upload(rows[0])


def check_way(upload: Upload, way: UploadWay) -> None:
    """
    Raises:
        FailedPrecondition: the bytes of *upload* come another way.
    """
    if upload.way in ("", way):
        return
    if upload.way == UploadWay.DIRECT:
        raise FailedPrecondition("UPLOAD_DIRECT", f"the parts of {upload.name} go to the object store directly")
    raise FailedPrecondition("UPLOAD_STREAMED", f"bytes of {upload.name} came by WriteUpload: go on with that")


def _one(rows: Sequence[Row], upload: str) -> Upload:
    if not rows:
        raise NotFound("UPLOAD_NOT_FOUND", f"uploads/{upload}")
    return _upload(rows[0])


def _upload(row: Row) -> Upload:
    return Upload(
        id=str(row["id"]),
        draft=Draft(row["sha256"], row["size_bytes"], row["media_type"], row["owner"], row["private"]),
        part_bytes=row["part_bytes"],
        way=UploadWay(row["way"]),
        key=row["key"],
        multipart=row["multipart"],
        parts=row["parts"],
        hash_state=row["hash_state"],
        inspection=None if row["inspection"] is None else Inspection.decode(row["inspection"]),
        writer=row["writer"],
        expire_time=row["expire_time"],
    )
