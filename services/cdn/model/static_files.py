"""
Static files: names that point at assets, and the headers that their bytes are served with.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from services.cdn.model.media_types import MEDIA_TYPE_RULE, is_media_type
from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument

MOST_PATH_BYTES = 512
MOST_HEADER = 512
#: max-age in seconds of content types without an entry in the table.
USUAL_AGE = 600

_PREFIX = "static/"
# Some proxies decode an escape of these into another path, so the gateway serves no such name.
_ESCAPES = frozenset("%\\")


@dataclass(frozen=True, slots=True)
class StaticName:
    """
    static/{path}.
    """

    path: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> StaticName:
        """
        Raises:
            InvalidArgument: *text* is not static/{path}, or the path is not relative and unambiguous.
        """
        path = text.removeprefix(_PREFIX)
        if path == text or not path:
            raise InvalidArgument.of(field, "must be static/{path}")
        if len(path.encode()) > MOST_PATH_BYTES:
            raise InvalidArgument.of(field, f"the path must be at most {MOST_PATH_BYTES} bytes of UTF-8")
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise InvalidArgument.of(field, 'the path must be relative, without empty, "." or ".." parts')
        if has_control(path):
            raise InvalidArgument.of(field, "the path must not contain control characters")
        if not _ESCAPES.isdisjoint(path):
            raise InvalidArgument.of(field, "the path must not contain a percent sign or a backslash")
        return cls(path)

    @classmethod
    def nowhere(cls) -> StaticName:
        """
        See `Name`.
        """
        return cls("")

    @property
    def url_path(self) -> str:
        """
        The path of its URL, percent-encoded, which is the cache key of an edge.
        """
        return quote(f"/{self}")

    def __str__(self) -> str:
        return f"{_PREFIX}{self.path}"


def has_control(text: str) -> bool:
    """
    Whether *text* contains a control character, which proxies and clients interpret differently in a key or a header.
    """
    return any(unicodedata.category(character) == "Cc" for character in text)


@dataclass(frozen=True, slots=True)
class StaticDraft:
    """
    A static file as requested by a client.

    Args:
        sha256: of the asset.
        cache_control: empty means from the table of content types.
        content_disposition: empty means none.
        content_type: empty means the asset's media type.
    """

    sha256: str
    cache_control: str
    content_disposition: str
    content_type: str = ""

    def check(self, checks: Checks, at: str) -> None:
        """
        Add the violations of its fields; *at* is its path in the request.
        """
        for field in ("cache_control", "content_disposition"):
            value = getattr(self, field)
            if len(value) > MOST_HEADER or not (value.isascii() and value.isprintable()) or value != value.strip():
                checks.add(f"{at}.{field}", f"must be at most {MOST_HEADER} printable ASCII characters")
        if self.content_type and not is_media_type(self.content_type):
            checks.add(f"{at}.content_type", MEDIA_TYPE_RULE)

    def image(self) -> Mapping[str, Any]:
        """
        Its fields in audit entries.
        """
        return {
            "sha256": self.sha256,
            "cache_control": self.cache_control,
            "content_disposition": self.content_disposition,
            "content_type": self.content_type,
        }


@dataclass(frozen=True, slots=True)
class StaticFile:
    """
    A static file.
    """

    name: StaticName
    draft: StaticDraft
    update_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class Headers:
    """
    The response headers of an object in the bucket; empty ones are omitted.
    """

    content_type: str
    cache_control: str
    content_disposition: str = ""
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class CacheAges:
    """
    The table of max-age by content type.

    Args:
        entries: seconds by "text/html", "text/*" or "*"; the most specific one applies.
    """

    entries: tuple[tuple[str, int], ...] = ()

    def control(self, media_type: str) -> str:
        """
        Cache-Control of a static file of this type.
        """
        essence = media_type.partition(";")[0].strip().lower()
        kind = f"{essence.partition('/')[0]}/*"
        table = dict(self.entries)
        age = table.get(essence, table.get(kind, table.get("*", USUAL_AGE)))
        return f"public, max-age={age}"

    def __str__(self) -> str:
        return ",".join(f"{pattern}={age}" for pattern, age in self.entries)
