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
#: The seconds for what the table of content types does not have.
USUAL_AGE = 600

_PREFIX = "static/"
# Some server on the way takes an escape of these for another path: the gateway serves no such name.
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
            InvalidArgument: *text* is not static/{path}, or the path is not a relative one that means one thing only.
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
        The path of its address, percent-encoded: what an edge has cached it under.
        """
        return quote(f"/{self}")

    def __str__(self) -> str:
        return f"{_PREFIX}{self.path}"


def has_control(text: str) -> bool:
    """
    Whether there is a control character in *text*: one in a key or a header means something else to somebody.
    """
    return any(unicodedata.category(character) == "Cc" for character in text)


@dataclass(frozen=True, slots=True)
class StaticDraft:
    """
    What a client says of a static file.

    Args:
        sha256: of the asset.
        cache_control: empty means by the table of content types.
        content_disposition: empty means none.
        content_type: empty means the asset's media type.
    """

    sha256: str
    cache_control: str
    content_disposition: str
    content_type: str = ""

    def check(self, checks: Checks, at: str) -> None:
        """
        Note what is wrong with it; *at* is its path in the request.
        """
        for field in ("cache_control", "content_disposition"):
            value = getattr(self, field)
            if len(value) > MOST_HEADER or not (value.isascii() and value.isprintable()) or value != value.strip():
                checks.add(f"{at}.{field}", f"must be at most {MOST_HEADER} printable ASCII characters")
        if self.content_type and not is_media_type(self.content_type):
            checks.add(f"{at}.content_type", MEDIA_TYPE_RULE)

    def image(self) -> Mapping[str, Any]:
        """
        What the audit keeps of it.
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
    What an object in the bucket is served with; an empty header is not sent.
    """

    content_type: str
    cache_control: str
    content_disposition: str = ""
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class CacheAges:
    """
    The table of content types: how long each may be kept by those who have it.

    Args:
        entries: seconds by "text/html", "text/*" or "*"; the closest one counts.
    """

    entries: tuple[tuple[str, int], ...] = ()

    def control(self, media_type: str) -> str:
        """
        The Cache-Control of a static file of this type.
        """
        essence = media_type.partition(";")[0].strip().lower()
        kind = f"{essence.partition('/')[0]}/*"
        table = dict(self.entries)
        age = table.get(essence, table.get(kind, table.get("*", USUAL_AGE)))
        return f"public, max-age={age}"

    def __str__(self) -> str:
        return ",".join(f"{pattern}={age}" for pattern, age in self.entries)
