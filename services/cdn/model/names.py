"""
Names and digests. Every ``parse_…`` names the field of the request that is wrong.
"""

from __future__ import annotations

import re

from services.chassis.errors import InvalidArgument, Violations

MAX_DIGESTS = 10_000
DIGEST_RULE = "must be 64 lower-case hexadecimal digits"

DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"assets/([0-9a-f]{64})")


def asset_name(sha256: str) -> str:
    """
    The resource name of the asset with this digest.
    """
    return f"assets/{sha256}"


def parse_name(name: str, field: str = "name") -> str:
    """
    The digest that an asset's name holds.

    Raises:
        InvalidArgument: *name* is not assets/{sha256}.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidArgument.of(field, "must be assets/{sha256} with 64 lower-case hexadecimal digits")
    return match[1]


def parse_digests(digests: list[str], field: str = "sha256") -> list[str]:
    """
    The digests without repetitions, in their order.

    Raises:
        InvalidArgument: there are none or more than MAX_DIGESTS, or one is malformed (the first ten are named).
    """
    if not 1 <= len(digests) <= MAX_DIGESTS:
        raise InvalidArgument.of(field, f"must hold 1 to {MAX_DIGESTS} digests")
    wrong = Violations()
    for place, digest in enumerate(digests):
        if not DIGEST.fullmatch(digest) and len(wrong) < 10:
            wrong.add(f"{field}[{place}]", DIGEST_RULE)
    wrong.raise_if_any()
    return list(dict.fromkeys(digests))
