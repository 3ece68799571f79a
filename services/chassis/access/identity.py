"""
The identity of a caller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What a verified token says.

    Args:
        subject: whose token it is; empty for a caller without one.
        scopes: what its bearer may do.
        expires: when it ends, in seconds since 1970.
    """

    subject: str
    scopes: frozenset[str]
    expires: float


#: A caller without a token, where reading is public.
ANYBODY = Identity("", frozenset(), float("inf"))
