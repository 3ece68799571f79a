"""
The request headers that control caching: `x-min-revision` and `cache-control: no-cache`.
"""

from __future__ import annotations

from typing import NamedTuple

from services.cache.read_through.origin import Metadata
from services.chassis.errors import InvalidArgument


class ReadOptions(NamedTuple):
    """
    A caller's requirements on an answer.

    Args:
        minimum: the answer must reflect this revision.
        fresh: the answer must come from the origin.
    """

    minimum: int
    fresh: bool


_NOTHING = ReadOptions(0, False)


def read_options(metadata: Metadata) -> ReadOptions:
    """
    Parse the options from the call's metadata.

    Raises:
        InvalidArgument: `x-min-revision` is not a number.
    """
    minimum, fresh = 0, False
    for key, value in metadata:
        if key == "x-min-revision":
            if not (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19):
                raise InvalidArgument.of("x-min-revision", "must be a revision: a non-negative integer")
            minimum = int(value)
        elif key == "cache-control" and isinstance(value, str) and "no-cache" in value:
            fresh = True
    return ReadOptions(minimum, fresh) if minimum or fresh else _NOTHING
