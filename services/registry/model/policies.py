"""
Policies: who may do what in which namespace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.chassis.access.api_tokens import LiveToken
from services.chassis.access.policies import REGISTRY, Bindings
from services.chassis.access.roles import PERMISSIONS, Role
from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument
from services.ledger.model.changes import Image
from services.registry.model.name_errors import name_error
from services.registry.model.names import NAMESPACE_ID, NamespaceName

MOST_MEMBERS = 1000
_MOST_MEMBER = 300
_MEMBER = re.compile(r"authenticated|everyone|(user|group):[^\x00-\x20\x7f](.*[^\x00-\x20\x7f])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(rf"namespaces/({NAMESPACE_ID.pattern})/policy")


@dataclass(frozen=True, slots=True)
class PolicyName:
    """
    namespaces/{namespace}/policy; or `policy`, the registry's own.

    Args:
        namespace: its id; `REGISTRY` for the registry's own.
    """

    namespace: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> PolicyName:
        """
        Raises:
            InvalidArgument: *text* is not such a name.
        """
        if text == "policy":
            return cls(REGISTRY)
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/policy"))
        return cls(match[1])

    @classmethod
    def nowhere(cls) -> PolicyName:
        """
        See `Name`.
        """
        return cls(REGISTRY)

    @property
    def parent(self) -> NamespaceName | None:
        """
        The namespace; None for the registry's own policy.
        """
        return NamespaceName(self.namespace) if self.namespace else None

    def __str__(self) -> str:
        return f"{self.parent}/policy" if self.namespace else "policy"


@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """
    What a client sets.

    Args:
        members: of each role.
        private: of the registry's policy, only owners apply.
    """

    members: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    private: bool = False

    def check(self, checks: Checks, at: str, name: PolicyName) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the policy in the request.
            name: of the policy.
        """
        if self.private and not name.namespace:
            checks.add(f"{at}.private", "must be false for the policy of the registry, which applies to all namespaces")
        check_members(checks, f"{at}.bindings", [member for members in self.members.values() for member in members])

    def image(self) -> Image:
        """
        The policy as the audit log records it and the database stores it.
        """
        bindings = {role.name.lower(): list(members) for role, members in sorted(self.members.items()) if members}
        return {"bindings": bindings, "private": self.private}

    def bindings(self, hidden_before: int = 0) -> Bindings:
        """
        The policy as decisions need it.

        Args:
            hidden_before: see `Bindings`.
        """
        roles: dict[str, Role] = {}
        for role, members in sorted(self.members.items()):
            roles.update(dict.fromkeys(members, role))
        return Bindings(roles, self.private, hidden_before)


@dataclass(frozen=True, slots=True)
class Policy:
    """
    A stored policy.

    Args:
        create_time, update_time: None for one that was never set.
        revision: 0 for one that was never set.
    """

    name: PolicyName
    draft: PolicyDraft
    create_time: datetime | None
    update_time: datetime | None
    revision: int

    @property
    def etag(self) -> str:
        """
        Its etag. One that was never written has one, too: of two clients that write it first, one is told.
        """
        return f'"r{self.revision}"'


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """
    What becomes known of the policies and API tokens.

    Args:
        changed: by the ids of their namespaces; None for one that is gone with its namespace.
        tokens: all live ones of namespaces whose tokens may have changed, by the ids of the namespaces.
        complete: these are all policies and tokens.
        applied: what is known is of this revision.
        current: seconds after the stream began until which nothing newer was committed; None when that is not known.
    """

    changed: Mapping[str, Bindings | None]
    tokens: Mapping[str, Sequence[LiveToken]]
    complete: bool
    applied: int
    current: float | None = None


def check_members(checks: Checks, at: str, members: Sequence[str]) -> None:
    """
    Report what is not a member; *at* is the path of the members in the request.
    """
    if len(members) > MOST_MEMBERS:
        checks.add(at, f"must have at most {MOST_MEMBERS:,} members; they have {len(members):,}")
    for member in members[:MOST_MEMBERS]:
        if len(member) > _MOST_MEMBER or not _MEMBER.fullmatch(member) or _CONTROL.search(member):
            checks.add(
                at,
                f"{member[:80]!r} is not a member: user:{{subject}}, group:{{name}}, authenticated or everyone, "
                f"with at most {_MOST_MEMBER} characters",
            )


def owned_by(member: str) -> PolicyDraft:
    """
    The policy of a new namespace.

    Args:
        member: who created it.
    """
    return PolicyDraft({Role.OWNER: (member,)})


def check_permissions(checks: Checks, at: str, permissions: list[str]) -> list[str]:
    """
    The permissions that are asked for; all of them when none is named.
    """
    for index, permission in enumerate(permissions[:MOST_MEMBERS]):
        if permission not in PERMISSIONS:
            checks.add(f"{at}[{index}]", f"must be one of {', '.join(sorted(PERMISSIONS))}")
    checks.size(at, permissions, MOST_MEMBERS, least=0)
    return list(dict.fromkeys(permissions)) or sorted(PERMISSIONS)
