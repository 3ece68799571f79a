"""
The identity of a caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.chassis.access.roles import Role

#: The scope of break-glass access: it needs no other scope of the registry, and no permission.
ADMIN: Final = "admin"
#: The scope of services that follow the registry: the cache.
FOLLOW: Final = "registry.follow"
#: What the subjects of API tokens begin with, and no others.
API_TOKEN_SUBJECT: Final = "token:"  # noqa: S105 - a prefix, no token


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What a verified token says.

    Args:
        subject: whose token it is; empty for a caller without one.
        scopes: what its bearer may do.
        expires: when it ends, in seconds since 1970.
        groups: the names of the groups that the subject belongs to.
        grant: of an API token: the id of its namespace, and its role there.

    Attributes:
        memo: decisions about this identity, of whoever decides.
    """

    subject: str
    scopes: frozenset[str]
    expires: float
    groups: frozenset[str] = frozenset()
    grant: tuple[str, Role] | None = None
    memo: Any = field(default=None, init=False, compare=False, repr=False)

    @property
    def is_follower(self) -> bool:
        """
        Whether it is a service that reads on its own behalf what it serves to callers by their permissions.
        """
        return FOLLOW in self.scopes

    @property
    def is_admin(self) -> bool:
        """
        Whether it may do everything that needs a permission.
        """
        return ADMIN in self.scopes

    def without_admin(self) -> Identity:
        """
        The same caller without break-glass access.
        """
        return replace(self, scopes=self.scopes - {ADMIN}) if self.is_admin else self

    @property
    def is_api_token(self) -> bool:
        """
        Whether the call was made with an API token: by a machine, whoever made the token.
        """
        return self.subject.startswith(API_TOKEN_SUBJECT)

    def members(self) -> list[str]:
        """
        The members of policies that it is: see docs/access.md.
        """
        if not self.subject:
            return ["everyone"]
        if self.grant is not None:
            return ["everyone", "authenticated"]
        return ["everyone", "authenticated", f"user:{self.subject}", *(f"group:{name}" for name in sorted(self.groups))]


#: A caller without a token, where reading is public.
ANYBODY = Identity("", frozenset(), float("inf"))
