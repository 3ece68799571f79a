"""
References: a number, an alias or `latest`, which name a version of a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.chassis.checks import MOST_INT64, Checks
from services.registry.model.names import ALIAS_ID

LATEST = "latest"
_NUMBER = re.compile(r"v?([1-9][0-9]{0,18})")
# Alias names that would be ambiguous as a reference, to a program or to a reader.
_RESERVED = re.compile(rf"{LATEST}|v?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reference:
    """
    A number, or an alias; "latest" when it is neither.

    Args:
        number: None for an alias and for "latest".
        alias: empty for a number and for "latest".
    """

    number: int | None = None
    alias: str = ""

    @classmethod
    def check(cls, checks: Checks, field: str, text: str) -> Reference:
        """
        The reference that *text* is; *field* is its path in the request.
        """
        match = _NUMBER.fullmatch(text)
        if match is not None and int(match[1]) <= MOST_INT64:
            return cls(number=int(match[1]))
        if text == LATEST:
            return cls()
        if match is not None or text.isdecimal() or ALIAS_ID.fullmatch(text) is None:
            checks.add(field, f"must be the number of a version, the id of an alias, or {LATEST}")
        return cls(alias=text)


def is_reserved(alias: str) -> bool:
    """
    Whether an alias may not be made, because a reference would mean something else. There may be some from before.
    """
    return _RESERVED.fullmatch(alias) is not None
