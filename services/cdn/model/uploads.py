"""
Uploads: what a client declares, validation of chunks, and the state of an upload session.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.cdn.model.assets import DEFAULT_MEDIA_TYPE, asset_key
from services.cdn.model.formats import Inspection
from services.cdn.model.media_types import MEDIA_TYPE_RULE, is_media_type
from services.cdn.model.names import DIGEST, DIGEST_RULE, asset_name, check_owner
from services.chassis.errors import InvalidArgument, PermissionDenied, Violations

MIB = 1024 * 1024

#: Maximum size of a chunk in one message, for uploads and downloads.
MAX_CHUNK_BYTES = 4 * MIB
#: S3 allows at most 10,000 parts. The size of a part is limited so that a few of them fit in memory.
MAX_PARTS = 10_000
MIN_PART_BYTES = 8 * MIB
MAX_PART_BYTES = 16 * MIB
MAX_ASSET_BYTES = MAX_PARTS * MAX_PART_BYTES
#: Maximum memory of one upload: the parts being sent to S3 and the one being received.
UPLOAD_MEMORY_BYTES = 24 * MIB
#: Maximum duration of a one-shot upload's stream.
MOST_STREAM = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Draft:
    """
    The declaration of an upload, validated.

    Args:
        sha256: digest of all bytes.
        size_bytes: number of bytes.
        media_type: their media type.
        owner: whose quota they count towards; empty for none.
        private: whether the asset is private, so that it is not served at /assets/{sha256}.
    """

    sha256: str
    size_bytes: int
    media_type: str
    owner: str = ""
    private: bool = False

    @classmethod
    def parse(cls, sha256: str, size_bytes: int, media_type: str, owner: str, *, private: bool, where: str) -> Draft:
        """
        Args:
            where: prefix of the fields' names in errors: "header.", or empty.

        Raises:
            InvalidArgument: names every invalid field.
        """
        wrong = Violations()
        if not DIGEST.fullmatch(sha256):
            wrong.add(f"{where}sha256", DIGEST_RULE)
        if not 0 <= size_bytes <= MAX_ASSET_BYTES:
            wrong.add(f"{where}size_bytes", f"must be from 0 to {MAX_ASSET_BYTES}")
        if media_type and not is_media_type(media_type):
            wrong.add(f"{where}media_type", MEDIA_TYPE_RULE)
        if owner:
            check_owner(wrong, f"{where}owner", owner)
        wrong.raise_if_any()
        return cls(sha256, size_bytes, media_type or DEFAULT_MEDIA_TYPE, owner, private)

    @property
    def key(self) -> str:
        """
        Key of the verified bytes.
        """
        return asset_key(self.sha256, private=self.private)

    @property
    def name(self) -> str:
        """
        Name of the resulting asset.
        """
        return asset_name(self.sha256)

    @property
    def part_bytes(self) -> int:
        """
        Size of a part of the multipart upload, such that MAX_PARTS of them hold the asset.
        """
        needed = -(-self.size_bytes // MAX_PARTS)
        return max(MIN_PART_BYTES, -(-needed // MIB) * MIB)

    def check_digest(self, sha256: str) -> None:
        """
        Raises:
            InvalidArgument: *sha256*, the digest of the received bytes, is not the declared one (DIGEST_MISMATCH).
        """
        if sha256 != self.sha256:
            raise InvalidArgument.of(
                "sha256",
                f"the received bytes have the sha256 {sha256}, but {self.sha256} was declared: nothing was stored",
                reason="DIGEST_MISMATCH",
                metadata={"declared": self.sha256, "received": sha256},
            )

    def check_size(self, size_bytes: int) -> None:
        """
        Raises:
            InvalidArgument: *size_bytes*, the number of received bytes, is not the declared one (SIZE_MISMATCH).
        """
        if size_bytes != self.size_bytes:
            raise InvalidArgument.of(
                "size_bytes",
                f"{size_bytes} bytes were received, but {self.size_bytes} were declared: nothing was stored",
                reason="SIZE_MISMATCH",
                metadata={"declared": str(self.size_bytes), "received": str(size_bytes)},
            )


@dataclass(frozen=True, slots=True)
class Caller:
    """
    The caller of an upload method.

    Args:
        subject: of the verified token; empty while access control is off.
        client: to whom limits apply: the subject, or the client's address if there is none.
    """

    subject: str
    client: str


class ChunkSequence:
    """
    Validates the chunks of an upload: consecutive, of limited size, and no more bytes than declared.
    """

    __slots__ = ("_draft", "received")

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.received = 0

    def accept(self, offset: int, size: int) -> None:
        """
        Accept a chunk of *size* bytes at *offset*.

        Raises:
            InvalidArgument: it is too large, *offset* is not the end of the previous one (OFFSET_GAP), or there are
                more bytes than declared (SIZE_MISMATCH).
        """
        if size > MAX_CHUNK_BYTES:
            raise InvalidArgument.of("chunk.data", f"must be at most {MAX_CHUNK_BYTES} bytes")
        if offset != self.received:
            rule = f"must be {self.received}, the end of the previous chunk"
            raise InvalidArgument.of("chunk.offset", rule, reason="OFFSET_GAP")
        self.received += size
        if self.received > self._draft.size_bytes:
            self._draft.check_size(self.received)

    def finish(self) -> None:
        """
        Raises:
            InvalidArgument: the stream ended before all declared bytes were received (SIZE_MISMATCH).
        """
        self._draft.check_size(self.received)


class UploadWay(StrEnum):
    """
    How the bytes of an upload are sent: streamed through WriteUpload, or directly to S3. Unset before the first bytes.
    """

    UNSAID = ""
    STREAM = "STREAM"
    DIRECT = "DIRECT"


@dataclass(frozen=True, slots=True)
class Upload:
    """
    A resumable upload.

    Args:
        id: of the upload.
        draft: its declaration.
        part_bytes: size of every part except the last.
        way: how the bytes are sent.
        key: of the multipart upload; empty before the first part.
        multipart: id of the multipart upload in the object store.
        parts: number of streamed parts that are committed.
        hash_state: of SHA-256 after those.
        inspection: of the first part.
        writer: fencing token of the current writer.
        expire_time: when it expires.
        subject: of the token that it was started with; empty for none.
        in_use: whether a writer holds the lease.
    """

    id: str
    draft: Draft
    part_bytes: int
    way: UploadWay
    key: str
    multipart: str
    parts: int
    hash_state: bytes | None
    inspection: Inspection | None
    writer: int
    expire_time: datetime
    subject: str = ""
    in_use: bool = False

    @property
    def name(self) -> str:
        """
        The resource name, ``uploads/{upload}``.
        """
        return f"uploads/{self.id}"

    def check_subject(self, caller: Caller) -> None:
        """
        Raises:
            PermissionDenied: it was started by another subject (UPLOAD_OF_ANOTHER).
        """
        if self.subject and caller.subject and self.subject != caller.subject:
            raise PermissionDenied("UPLOAD_OF_ANOTHER", f"{self.name} was started by another subject: start your own")

    @property
    def committed_bytes(self) -> int:
        """
        Number of streamed bytes that are committed.
        """
        return min(self.parts * self.part_bytes, self.draft.size_bytes)

    @property
    def part_count(self) -> int:
        """
        Total number of parts.
        """
        return -(-self.draft.size_bytes // self.part_bytes)

    @property
    def staged(self) -> bool:
        """
        Whether the parts are uploaded to a staging key, for bytes that are not verified yet.
        """
        return self.key.startswith("staging/")

    def part_size(self, number: int) -> int:
        """
        Size of part *number*, counted from 1.
        """
        return min(self.part_bytes, self.draft.size_bytes - (number - 1) * self.part_bytes)
