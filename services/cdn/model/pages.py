"""
Pages of a list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from services.chassis.errors import Violations

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """
    Where a list goes on and how many it may give.

    Args:
        size: at most this many, 1 to MAX_PAGE_SIZE.
        after: the digest of the last asset of the page before; empty for the first page.
    """

    size: int = DEFAULT_PAGE_SIZE
    after: str = ""

    @classmethod
    def parse(cls, page_size: int, page_token: str, query: str) -> Page:
        """
        Args:
            page_size: 0 means DEFAULT_PAGE_SIZE.
            page_token: from ``next_token``, or empty.
            query: what is listed; a token of another query is refused.

        Raises:
            InvalidArgument: *page_size* is negative, or *page_token* is not one of this query's.
        """
        wrong = Violations()
        if page_size < 0:
            wrong.add("page_size", "must not be negative")
        after = _read_token(page_token, query) if page_token else ""
        if after is None:
            wrong.add("page_token", "must be a next_page_token that this list gave")
        wrong.raise_if_any()
        return cls(min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), after or "")


def next_token(last: str, query: str) -> str:
    """
    The token of the page after the asset *last* (its digest), valid for *query* only.
    """
    return base64.urlsafe_b64encode(_seal(query) + bytes.fromhex(last)).decode().rstrip("=")


def _read_token(token: str, query: str) -> str | None:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    seal, last = raw[:8], raw[8:]
    return last.hex() if seal == _seal(query) and len(last) == hashlib.sha256().digest_size else None


def _seal(query: str) -> bytes:
    return hashlib.sha256(b"modelyard.cdn.v1 page\0" + query.encode()).digest()[:8]
