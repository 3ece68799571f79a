"""
Page tokens of scans: the start of the next page, bound to the namespace and prefix of the scan.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b

from services.chassis.errors import InvalidArgument

_DIGEST = 8


def token(namespace: str, prefix: str, last: str) -> str:
    """
    The token of the page after *last*.
    """
    return base64.urlsafe_b64encode(_digest(namespace, prefix, last) + last.encode()).rstrip(b"=").decode()


def position(namespace: str, prefix: str, found: str) -> str:
    """
    The key after which the page of a token begins; empty for an empty token.

    Raises:
        InvalidArgument: it is not a token of this scan.
    """
    if not found:
        return ""
    try:
        raw = base64.b64decode(found + "=" * (-len(found) % 4), altchars=b"-_", validate=True)
        last = raw[_DIGEST:].decode()
    except (binascii.Error, ValueError):
        last, raw = "", b""
    if not last or raw[:_DIGEST] != _digest(namespace, prefix, last):
        raise InvalidArgument.of(
            "page_token", "is not a token of this scan: send the next_page_token of the last answer"
        )
    return last


def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=_DIGEST).digest()
