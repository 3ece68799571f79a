"""
Presigned URLs and invalidations: values and rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import quote
from uuid import UUID

from services.cdn.model.names import VERSION
from services.cdn.model.static_files import has_control
from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument

MOST_PATHS = 3000
#: CloudFront's own limit (Developer Guide, "What you need to know when invalidating files").
MOST_PATH = 4000
MOST_DOWNLOAD_NAME = 255

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def parse_version(checks: Checks, field: str, text: str) -> str:
    """
    The full name of a version, which owns its assets' pins.
    """
    return checks.matches(field, text, VERSION)


@dataclass(frozen=True, slots=True)
class TtlBounds:
    """
    Limits of the TTL of a presigned URL, in seconds.
    """

    usual: int
    least: int
    most: int

    def check(self, checks: Checks, field: str, seconds: int | None) -> int:
        """
        The requested TTL, or the default.
        """
        if seconds is None:
            return self.usual
        if not self.least <= seconds <= self.most:
            checks.add(field, f"must be from {self.least} to {self.most} seconds")
        return seconds


@dataclass(frozen=True, slots=True)
class Terms:
    """
    Terms of a presigned URL.

    Args:
        seconds: TTL.
        ip_range: of permitted clients; None for any.
        download_name: file name for browsers; empty for none.
    """

    seconds: int
    ip_range: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    download_name: str = ""

    @property
    def disposition(self) -> str:
        """
        The Content-Disposition of the response, or an empty string.

        RFC 6266: `filename*` is the name in the encoding of RFC 8187. `filename` is the fallback for clients without
        support for it; characters that they interpret differently (appendix D) are replaced.
        """
        name = self.download_name
        if not name:
            return ""
        plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
        # RFC 8187, attr-char: what `quote` leaves alone ("_.-~", letters and digits), and these.
        return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='!#$&+^`|')}"


def parse_ip_range(checks: Checks, field: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """
    Parse a CIDR block (RFC 4632); None if *text* is empty.
    """
    if not text:
        return None
    try:
        if "/" in text:
            return ipaddress.ip_network(text)
    except ValueError:
        pass
    checks.add(field, "must be a CIDR block without host bits, such as 192.0.2.0/24")
    return None


def parse_download_name(checks: Checks, field: str, text: str) -> str:
    """
    Validate the name of a file. A control character would terminate the header that contains it.
    """
    if len(text) > MOST_DOWNLOAD_NAME or has_control(text):
        checks.add(field, f"must be at most {MOST_DOWNLOAD_NAME} characters without control characters")
    return text


@dataclass(frozen=True, slots=True)
class PresignedUrl:
    """
    A presigned URL and its expiry.
    """

    url: str
    expire_time: datetime


class InvalidationState(StrEnum):
    """
    State of an invalidation.
    """

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class InvalidationName:
    """
    invalidations/{invalidation}.
    """

    id: UUID

    @classmethod
    def parse(cls, text: str, field: str = "name") -> InvalidationName:
        """
        Raises:
            InvalidArgument: *text* is not the name of an invalidation.
        """
        own = text.removeprefix("invalidations/")
        if own == text or not _UUID.fullmatch(own):
            raise InvalidArgument.of(field, "must be invalidations/{invalidation}, as returned by InvalidatePaths")
        return cls(UUID(own))

    def __str__(self) -> str:
        return f"invalidations/{self.id}"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """
    Invalidation of paths at the CDN.

    Args:
        failure: why it FAILED.
    """

    name: InvalidationName
    state: InvalidationState
    paths: Sequence[str]
    create_time: datetime
    failure: str = ""


def parse_paths(checks: Checks, field: str, paths: Sequence[str]) -> list[str]:
    """
    Validate and deduplicate paths; their order is kept, and the first ten violations are reported.
    """
    if not 1 <= len(paths) <= MOST_PATHS:
        checks.add(field, f"must hold 1 to {MOST_PATHS:,} paths")
        return []
    wrong = 0
    for place, path in enumerate(paths):
        if (rule := _wrong_path(path)) and (wrong := wrong + 1) <= 10:
            checks.add(f"{field}[{place}]", rule)
    return list(dict.fromkeys(paths))


def _wrong_path(path: str) -> str:
    if not path.startswith("/"):
        return "must start with a slash"
    if "*" in path[:-1]:
        return "must have a * at its end only"
    if len(path) > MOST_PATH:
        return f"must be at most {MOST_PATH:,} characters"
    if not (path.isascii() and path.isprintable()) or " " in path:
        return "must be printable ASCII without spaces: percent-encode everything else"
    return ""


def count_wildcards(paths: Sequence[str]) -> int:
    """
    The number of *paths* that end in a *.
    """
    return sum(path.endswith("*") for path in paths)
