"""
What an upload declares, and the rules that its chunks keep to.
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

#: The largest piece of an asset in one message of a stream, either way.
MAX_CHUNK_BYTES = 4 * MIB
#: S3 takes at most 10,000 parts, and a part is at most this large here, so that a few of them fit in memory.
MAX_PARTS = 10_000
MIN_PART_BYTES = 8 * MIB
MAX_PART_BYTES = 16 * MIB
MAX_ASSET_BYTES = MAX_PARTS * MAX_PART_BYTES
#: What one upload may hold in memory: parts on their way to S3 and the one that is being filled.
UPLOAD_MEMORY_BYTES = 24 * MIB
#: How long the one stream of an upload that cannot be taken up again may take.
MOST_STREAM = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Draft:
    """
    What an upload declares, checked.

    Args:
        sha256: the digest of all bytes.
        size_bytes: how many they are.
        media_type: what they are.
        owner: whose quota they count on; empty for nobody's.
        private: whether they are kept from /assets/{sha256}.
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
            where: what the fields are in: "header.", or empty.

        Raises:
            InvalidArgument: says everything that is wrong at once.
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
        Where the bytes go when they are verified.
        """
        return asset_key(self.sha256, private=self.private)

    @property
    def name(self) -> str:
        """
        The name of the asset that it becomes.
        """
        return asset_name(self.sha256)

    @property
    def part_bytes(self) -> int:
        """
        How large a part of a multipart upload is, so that MAX_PARTS of them hold the asset.
        """
        needed = -(-self.size_bytes // MAX_PARTS)
        return max(MIN_PART_BYTES, -(-needed // MIB) * MIB)

    def check_digest(self, sha256: str) -> None:
        """
        Raises:
            InvalidArgument: *sha256*, the digest of what came, is not the declared one (DIGEST_MISMATCH).
        """
        if sha256 != self.sha256:
            raise InvalidArgument.of(
                "sha256",
                f"the bytes that came have the sha256 {sha256}, {self.sha256} was declared: nothing was stored",
                reason="DIGEST_MISMATCH",
                metadata={"declared": self.sha256, "received": sha256},
            )

    def check_size(self, size_bytes: int) -> None:
        """
        Raises:
            InvalidArgument: *size_bytes*, the number of bytes that came, is not the declared one (SIZE_MISMATCH).
        """
        if size_bytes != self.size_bytes:
            raise InvalidArgument.of(
                "size_bytes",
                f"{size_bytes} bytes came, {self.size_bytes} were declared: nothing was stored",
                reason="SIZE_MISMATCH",
                metadata={"declared": str(self.size_bytes), "received": str(size_bytes)},
            )


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who uploads.

    Args:
        subject: of the verified token; empty while access control is off.
        client: whom bounds are counted for: the subject, or an address where there is none.
    """

    subject: str
    client: str


class ChunkSequence:
    """
    Holds the chunks of an upload to the rules: consecutive, of a size, and no more than declared.
    """

    __slots__ = ("_draft", "received")

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.received = 0

    def accept(self, offset: int, size: int) -> None:
        """
        Count a chunk of *size* bytes that claims to begin at *offset*.

        Raises:
            InvalidArgument: it is too large, *offset* is not where the last one ended (OFFSET_GAP), or more
                bytes came than were declared (SIZE_MISMATCH).
        """
        if size > MAX_CHUNK_BYTES:
            raise InvalidArgument.of("chunk.data", f"must be at most {MAX_CHUNK_BYTES} bytes")
        if offset != self.received:
            rule = f"must be {self.received}, where the last chunk ended"
            raise InvalidArgument.of("chunk.offset", rule, reason="OFFSET_GAP")
        self.received += size
        if self.received > self._draft.size_bytes:
            self._draft.check_size(self.received)

    def finish(self) -> None:
        """
        Raises:
            InvalidArgument: the stream ended before all declared bytes came (SIZE_MISMATCH).
        """
        self._draft.check_size(self.received)


class UploadWay(StrEnum):
    """
    How the bytes of an upload come; nothing is said before the first ones.
    """

    UNSAID = ""
    STREAM = "STREAM"
    DIRECT = "DIRECT"


@dataclass(frozen=True, slots=True)
class Upload:
    """
    An upload that can be taken up again.

    Args:
        id: of it.
        draft: what it declares.
        part_bytes: the size of every part but the last.
        way: how the bytes come.
        key: where the parts go; empty before the first one.
        multipart: what the object store calls that.
        parts: how many came through us and are stored for good.
        hash_state: of SHA-256 after those.
        inspection: what the first part was recognised as.
        writer: the fencing token of who writes.
        expire_time: when it is given up.
        subject: of the token that it was started with; empty for none.
        in_use: whether somebody writes.
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
            PermissionDenied: it is somebody else's (UPLOAD_OF_ANOTHER).
        """
        if self.subject and caller.subject and self.subject != caller.subject:
            raise PermissionDenied("UPLOAD_OF_ANOTHER", f"{self.name} was started by somebody else: start your own")

    @property
    def committed_bytes(self) -> int:
        """
        What came through us and is stored for good.
        """
        return min(self.parts * self.part_bytes, self.draft.size_bytes)

    @property
    def part_count(self) -> int:
        """
        How many parts it has in all.
        """
        return -(-self.draft.size_bytes // self.part_bytes)

    @property
    def staged(self) -> bool:
        """
        Whether the parts go where nobody has verified them yet.
        """
        return self.key.startswith("staging/")

    def part_size(self, number: int) -> int:
        """
        How large part *number* is, from 1 on.
        """
        return min(self.part_bytes, self.draft.size_bytes - (number - 1) * self.part_bytes)
