"""
How many examples the property tests run: a quarter in `make test`, all of them in `make check-properties`.
"""

from __future__ import annotations

import os

_SHARE = float(os.environ.get("MODELYARD_CHECK_EXAMPLE_SHARE", "0.25"))


def examples(count: int) -> int:
    """
    The number of examples to run of *count*.
    """
    return max(5, round(count * _SHARE))
