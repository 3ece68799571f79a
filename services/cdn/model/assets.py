"""
What an asset is, and which part of one is wanted.
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
    Bytes that are stored, verified and never change.

    Args:
        sha256: their digest, 64 lower-case hexadecimal digits.
        size_bytes: how many they are.
        media_type: what the first upload of them declared.
        private: whether only those know of them who may read private assets.
        create_time: when they were stored.
        revision: of the last change.
        format: what they were recognised as, as the contract spells it without FORMAT_; empty for nothing known.
        warnings: things to know before use.
        encodings: content encodings that are stored beside the original.
        parameter_count: of a safetensors file.
        verdict: what loading it may run, as the contract spells it without VERDICT_; empty for nothing known.
        loads: the names that loading it calls.
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
        Where its bytes are in the bucket.
        """
        return asset_key(self.sha256, private=self.private)

    def image(self) -> Image:
        """
        For the audit.
        """
        return {"size_bytes": self.size_bytes, "media_type": self.media_type, "private": self.private}


def asset_key(sha256: str, *, private: bool) -> str:
    """
    Where the bytes of an asset are in the bucket: what is public has its own prefix, which the gateway serves.
    """
    return f"private/{sha256}" if private else f"assets/{sha256}"


def is_private(key: str) -> bool:
    """
    Whether what is under a key of the bucket is for those alone who may read private assets.
    """
    return key.startswith("private/")


def variant_key(encoding: str, key: str) -> str:
    """
    Where the bytes of *key* are, in a content encoding.
    """
    return f"{encoding}/{key}"


def staging_key(upload: str) -> str:
    """
    Where bytes are that nobody has verified yet.
    """
    return f"{STAGING}{upload}"


def staged_upload(key: str) -> str | None:
    """
    The id of the upload whose bytes are at *key*; None for what is no key of ours.
    """
    match = _STAGED.fullmatch(key)
    return match[1] if match else None


#: What the keys of bytes begin with that nobody has verified yet.
STAGING = "staging/"
_STAGED = re.compile(STAGING + "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def all_keys(sha256: str) -> list[str]:
    """
    Everywhere where bytes of an asset may be.
    """
    own = [asset_key(sha256, private=private) for private in (False, True)]
    return [*own, *(variant_key(encoding, key) for encoding in ENCODINGS for key in own)]


#: The content encodings that are stored beside an original, the best one first.
ENCODINGS = ("zstd", "gzip")


@dataclass(frozen=True, slots=True)
class Span:
    """
    The wanted part of an asset: from *offset* on, *limit* bytes or, when that is 0, to the end; or *nothing* of it.
    """

    offset: int = 0
    limit: int = 0
    nothing: bool = False

    @property
    def whole(self) -> bool:
        """
        Whether that is all of the asset.
        """
        return not self.offset and not self.limit and not self.nothing

    def within(self, start: int, size: int) -> Span:
        """
        The same part of the *size* bytes that begin at *start*.
        """
        left = max(size - self.offset, 0)
        return Span(start + self.offset, min(self.limit or left, left), nothing=not left)


def parse_part(name: str, offset: int, limit: int) -> tuple[str, Span]:
    """
    The digest of an asset, and the part of it that is wanted.

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
