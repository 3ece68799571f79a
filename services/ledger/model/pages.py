"""
Pages: sizes, and opaque tokens that say where the next page begins.

A token holds the sort key of the last row and a digest over the query and that key. With keyset pagination page 1,000
costs as much as page 1, and concurrent inserts and deletes neither repeat nor hide other rows. The digest rejects
tokens that belong to another query, are truncated or were guessed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from services.chassis.access.hidden import as_asked
from services.chassis.checks import MOST_INT64, Checks

T = TypeVar("T")

Key = str | int | float | datetime
_MOST_TOKEN = 8192
_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Query:
    """
    The query of a list: the RPC and all parameters that affect the result except the position and size of the page.

    Args:
        rpc: "ListModels".
        parts: the parent, filters and order, as requested.
        keys: the types of the sort key, in order.
        optional: the last of them may be missing.
    """

    rpc: str
    parts: tuple[str, ...]
    keys: tuple[type[Key], ...]
    optional: bool = False

    def token(self, key: Sequence[Key]) -> str:
        """
        The token of the page after the row whose sort key is *key*.
        """
        position = json.dumps([_plain(part) for part in key], ensure_ascii=False, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._digest(position) + position).rstrip(b"=").decode()

    def position(self, token: str) -> tuple[Key, ...] | None:
        """
        The sort key in *token*; None if it is not a token of this query.
        """
        if len(token) > _MOST_TOKEN:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            digest, position = raw[:_DIGEST], raw[_DIGEST:]
            if digest != self._digest(position):
                return None
            values = json.loads(position)
            keys = self.keys[:-1] if self.optional and len(values) < len(self.keys) else self.keys
            return tuple(_typed(value, kind) for value, kind in zip(values, keys, strict=True))
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
            return None

    def _digest(self, position: bytes) -> bytes:
        digest = blake2b(digest_size=_DIGEST)
        for part in (self.rpc, *self.parts):
            # Of the query as it was sent: anybody can compute a token.
            encoded = as_asked(part).encode()
            digest.update(len(encoded).to_bytes(8) + encoded)
        digest.update(position)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of a list.

    Args:
        query: what is listed.
        size: maximum number of rows.
        after: the sort key of the row before the page; None for the first page.
    """

    query: Query
    size: int
    after: tuple[Key, ...] | None

    @classmethod
    def check(cls, checks: Checks, query: Query, size: int, token: str, *, usual: int = 50, most: int = 1000) -> Page:
        """
        The page that a request's `page_size` and `page_token` ask for.
        """
        after = None
        if token and (after := query.position(token)) is None:
            checks.add("page_token", "is not a token that this list gave for the same query")
        if size < 0:
            checks.add("page_size", "must not be negative")
        return cls(query, min(size, most) if size > 0 else usual, after)


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """
    The rows of a page and the revision that they reflect.

    Args:
        token: of the next page; empty on the last one.
    """

    items: tuple[T, ...]
    token: str
    revision: int


def _plain(value: Key) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _typed(value: Any, kind: type[Key]) -> Key:
    """
    Raises:
        ValueError, TypeError, OverflowError: *value* is not of *kind*, or the database cannot hold it.
    """
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.astimezone(UTC)  # may overflow, as the database driver would
    if type(value) is not kind:
        raise TypeError("another type")
    if isinstance(value, int) and not -MOST_INT64 <= value <= MOST_INT64:
        raise ValueError("not an int64")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("NUL")
    return value
