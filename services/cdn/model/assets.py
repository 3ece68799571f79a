"""
Assets, the keys of their objects, and ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from services.cdn.model.names import asset_name, parse_name
from services.chassis.errors import InvalidArgument, Violations
from services.ledger.model.changes import Image

DEFAULT_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Asset:
    """
    Verified, immutable bytes.

    Args:
        sha256: their digest, 64 lower-case hexadecimal digits.
        size_bytes: their number.
        media_type: as declared by the first upload.
        private: whether only callers with access to private assets may see it.
        create_time: when it was stored.
        revision: of the last change.
        format: detected format, as in the proto without FORMAT_; empty if unknown.
        warnings: for users.
        encodings: of the stored compressed variants.
        parameter_count: of a safetensors file.
        verdict: of the security scan, as in the proto without VERDICT_; empty if unknown.
        loads: names that loading it calls.
    """

    sha256: str
    size_bytes: int
    media_type: str
    private: bool
    create_time: datetime
    revision: int
    format: str = ""
    warnings: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    parameter_count: int = 0
    verdict: str = ""
    loads: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """
        The resource name, ``assets/{sha256}``.
        """
        return asset_name(self.sha256)

    @property
    def key(self) -> str:
        """
        Key of its bytes in the bucket.
        """
        return asset_key(self.sha256, private=self.private)

    def image(self) -> Image:
        """
        Its fields in audit entries.
        """
        return {"size_bytes": self.size_bytes, "media_type": self.media_type, "private": self.private}


def asset_key(sha256: str, *, private: bool) -> str:
    """
    Key of an asset's bytes. Public assets have a prefix of their own, which the gateway serves.
    """
    return f"private/{sha256}" if private else f"assets/{sha256}"


def is_private(key: str) -> bool:
    """
    Whether *key* is that of a private asset.
    """
    return key.startswith("private/")


def variant_key(encoding: str, key: str) -> str:
    """
    Key of a compressed variant of *key*.
    """
    return f"{encoding}/{key}"


def staging_key(upload: str) -> str:
    """
    Key of an upload's unverified bytes.
    """
    return f"{STAGING}{upload}"


def staged_upload(key: str) -> str | None:
    """
    The id of the upload with the staging key *key*; None for other keys.
    """
    match = _STAGED.fullmatch(key)
    return match[1] if match else None


#: Key prefix of unverified bytes.
STAGING = "staging/"
_STAGED = re.compile(STAGING + "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def all_keys(sha256: str) -> list[str]:
    """
    All keys under which an asset may have objects.
    """
    own = [asset_key(sha256, private=private) for private in (False, True)]
    return [*own, *(variant_key(encoding, key) for encoding in ENCODINGS for key in own)]


#: Content encodings of the stored variants, in order of preference.
ENCODINGS = ("zstd", "gzip")


@dataclass(frozen=True, slots=True)
class Span:
    """
    A range of an asset: *limit* bytes from *offset*, or to the end if *limit* is 0; or the empty range (*nothing*).
    """

    offset: int = 0
    limit: int = 0
    nothing: bool = False

    @property
    def whole(self) -> bool:
        """
        Whether it is the whole asset.
        """
        return not self.offset and not self.limit and not self.nothing

    def within(self, start: int, size: int) -> Span:
        """
        The same range within the *size* bytes that begin at *start*.
        """
        left = max(size - self.offset, 0)
        return Span(start + self.offset, min(self.limit or left, left), nothing=not left)


def parse_part(name: str, offset: int, limit: int) -> tuple[str, Span]:
    """
    Parse the digest of an asset, and a range.

    Raises:
        InvalidArgument: *name* is not assets/{sha256}, or *offset* or *limit* is negative.
    """
    wrong = Violations()
    for field, value in (("offset", offset), ("limit", limit)):
        if value < 0:
            wrong.add(field, "must not be negative")
    try:
        sha256 = parse_name(name)
    except InvalidArgument as error:
        wrong.extend(error.violations)
    wrong.raise_if_any()
    return sha256, Span(offset, limit)
