"""
What an asset is, and which part of one is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.cdn.model.names import asset_name, parse_name
from services.chassis.errors import InvalidArgument, Violations

DEFAULT_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Asset:
    """
    Bytes that are stored, verified and never change.

    Args:
        sha256: their digest, 64 lower-case hexadecimal digits.
        size_bytes: how many they are.
        media_type: what the first upload of them declared.
        create_time: when they were stored.
    """

    sha256: str
    size_bytes: int
    media_type: str
    create_time: datetime

    @property
    def name(self) -> str:
        """
        The resource name, ``assets/{sha256}``.
        """
        return asset_name(self.sha256)


@dataclass(frozen=True, slots=True)
class Span:
    """
    The wanted part of an asset: from *offset* on, *limit* bytes or, when that is 0, to the end.
    """

    offset: int = 0
    limit: int = 0

    @property
    def whole(self) -> bool:
        """
        Whether that is all of the asset.
        """
        return not self.offset and not self.limit


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
