"""
What a caller asks of an answer.
"""

from __future__ import annotations

from typing import NamedTuple

from services.cache.read_through.origin import Metadata
from services.chassis.errors import InvalidArgument


class ReadOptions(NamedTuple):
    """
    What a caller asks of an answer.

    Args:
        minimum: the revision that it must reflect.
        fresh: it must come from the origin.
    """

    minimum: int
    fresh: bool


_NOTHING = ReadOptions(0, False)


def read_options(metadata: Metadata) -> ReadOptions:
    """
    Read the wish from the call's metadata: `x-min-revision`, `cache-control: no-cache`.

    Raises:
        InvalidArgument: `x-min-revision` is not a number.
    """
    minimum, fresh = 0, False
    for key, value in metadata:
        if key == "x-min-revision":
            if not (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19):
                raise InvalidArgument.of("x-min-revision", "must be a revision: a number from 0 on")
            minimum = int(value)
        elif key == "cache-control" and isinstance(value, str) and "no-cache" in value:
            fresh = True
    return ReadOptions(minimum, fresh) if minimum or fresh else _NOTHING
