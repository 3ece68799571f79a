"""
The reference model: who may read what, and since when. It shares nothing with the code that decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

NONE, READER, WRITER, MAINTAINER, OWNER = range(5)
#: Seconds until a change holds for calls that do not name its revision.
BOUND = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Somebody with a token.
    """

    subject: str
    groups: tuple[str, ...] = ()


CALLERS = (Caller("ann", ("red",)), Caller("bob", ("red", "blue")), Caller("cat"))
MEMBERS = ("user:ann", "user:bob", "user:cat", "group:red", "group:blue", "authenticated", "everyone")


@dataclass(frozen=True, slots=True)
class Rule:
    """
    A policy: the role of each member.
    """

    roles: Mapping[str, int] = field(default_factory=dict)
    private: bool = False

    def role(self, caller: Caller) -> int:
        """
        The highest role of a caller.
        """
        is_member = {
            "authenticated": True,
            "everyone": True,
            f"user:{caller.subject}": True,
            **{f"group:{name}": True for name in caller.groups},
        }
        return max([role for member, role in self.roles.items() if member in is_member], default=NONE)


@dataclass(frozen=True, slots=True)
class _Past:
    ended: float
    above: Rule
    rules: dict[str, Rule]
    gone: dict[str, Rule]


class Model:
    """
    All policies: what they are, and what they were lately.

    Attributes:
        above: the registry's.
        rules: of the namespaces.
    """

    def __init__(self) -> None:
        self.above = Rule({"everyone": MAINTAINER})
        self.rules: dict[str, Rule] = {"default": Rule()}
        #: Of namespaces that were deleted, nobody is bound: what happened there is still in the log of changes and in
        #: the audit log.
        self.gone: dict[str, Rule] = {}
        self._past: list[_Past] = []

    def changed(self) -> None:
        """
        Record that the current policies are about to be replaced.
        """
        self._past.append(_Past(float("inf"), self.above, dict(self.rules), dict(self.gone)))

    def settled(self) -> None:
        """
        Record that they have been replaced.
        """
        now = time.monotonic()
        self._past = [replace(each, ended=min(now, each.ended)) for each in self._past if each.ended > now - 10 * BOUND]

    def role(self, caller: Caller, namespace: str) -> int:
        """
        The role of a caller in a namespace now.
        """
        return _role(caller, namespace, self.above, self.rules, self.gone)

    def lately(self, caller: Caller, namespace: str, since: float) -> int:
        """
        The highest role that a caller had in a namespace from shortly before *since* on.
        """
        past = [
            _role(caller, namespace, each.above, each.rules, each.gone)
            for each in self._past
            if each.ended > since - BOUND
        ]
        return max([self.role(caller, namespace), *past])


def _role(caller: Caller, namespace: str, above: Rule, rules: Mapping[str, Rule], gone: Mapping[str, Rule]) -> int:
    rule = rules.get(namespace) or gone.get(namespace) or Rule()
    over = above.role(caller)
    if rule.private and over < OWNER:
        over = NONE
    return max(over, rule.role(caller))
