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
# Identity providers allow blanks in the names of groups, as do the members of policies.
_GROUP = re.compile(r"(group):([^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?)")


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
        groups: callers whose token names one of these groups.
    """

    scopes: frozenset[str]
    subjects: frozenset[str]
    groups: frozenset[str] = frozenset()

    def include(self, subject: str, scopes: Collection[str], groups: Collection[str] = ()) -> bool:
        """
        Whether a caller is one of them.

        Args:
            subject: of the token.
            scopes: of the token.
            groups: of the token.
        """
        return subject in self.subjects or not self.scopes.isdisjoint(scopes) or not self.groups.isdisjoint(groups)


def users(found: Any, place: str) -> Principals | None:
    """
    Parse principals from a list of strings: "scope:cache.read:sessions", "subject:login", "group:web"; or "anybody":
    every caller with the scope of the RPC.

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
        raise ValueError(f'{place}: must be a list of "scope:…", "subject:…" and "group:…", or ["{ANYBODY}"]')
    kinds: dict[str, set[str]] = {"scope": set(), "subject": set(), "group": set()}
    for each in found:
        user = (_USER.fullmatch(each) or _GROUP.fullmatch(each)) if isinstance(each, str) else None
        if user is None:
            raise ValueError(f'{place}: {each!r} is none of "scope:…", "subject:…" and "group:…"')
        kinds[user[1]].add(user[2])
    return Principals(frozenset(kinds["scope"]), frozenset(kinds["subject"]), frozenset(kinds["group"]))
