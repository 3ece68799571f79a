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
    What is done to a namespace.
    """

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Principals:
    """
    Those who have a right.

    Args:
        scopes: whoever has one of them.
        subjects: or whose token is one of theirs.
    """

    scopes: frozenset[str]
    subjects: frozenset[str]

    def include(self, subject: str, scopes: Collection[str]) -> bool:
        """
        Whether somebody is one of them.

        Args:
            subject: whose token it is.
            scopes: that the token has.
        """
        return subject in self.subjects or not self.scopes.isdisjoint(scopes)


def users(found: Any, place: str) -> Principals | None:
    """
    Read users from a list of texts: "scope:cache.read:sessions", "subject:login"; or "anybody": whoever has the
    scope of the call.

    Args:
        place: where it is, for the error.

    Returns:
        None for anybody.

    Raises:
        ValueError: it is no such list; the message names the place and the fix.
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
