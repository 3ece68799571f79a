"""
Who may use a namespace of the key-value cache.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

ANYBODY = "anybody"
_USER = re.compile(r"(scope|subject):(\S+)")


class Permission(Enum):
    """
    What a caller may do with a namespace.
    """

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Principals:
    """
    The callers that have a permission.

    Args:
        scopes: callers whose token has one of them.
        subjects: callers whose token has one of these subjects.
    """

    scopes: frozenset[str]
    subjects: frozenset[str]

    def include(self, subject: str, scopes: Collection[str]) -> bool:
        """
        Whether a caller is one of them.

        Args:
            subject: of the token.
            scopes: of the token.
        """
        return subject in self.subjects or not self.scopes.isdisjoint(scopes)


def users(found: Any, place: str) -> Principals | None:
    """
    Parse principals from a list of strings: "scope:cache.read:sessions", "subject:login"; or "anybody": every caller
    with the scope of the RPC.

    Args:
        place: where the list is, for the error.

    Returns:
        None for anybody.

    Raises:
        ValueError: the list is invalid; the message names the place and the fix.
    """
    if found == [ANYBODY]:
        return None
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise ValueError(f'{place}: must be a list of "scope:…" and "subject:…", or ["{ANYBODY}"]')
    kinds: dict[str, set[str]] = {"scope": set(), "subject": set()}
    for each in found:
        user = _USER.fullmatch(each) if isinstance(each, str) else None
        if user is None:
            raise ValueError(f'{place}: {each!r} is neither "scope:…" nor "subject:…"')
        kinds[user[1]].add(user[2])
    return Principals(frozenset(kinds["scope"]), frozenset(kinds["subject"]))
