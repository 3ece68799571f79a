"""
API tokens: opaque tokens of machines, each with one role in one namespace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from services.chassis.access.api_tokens import SCOPES, TOKEN_ID
from services.chassis.access.identity import API_TOKEN_SUBJECT
from services.chassis.access.roles import Role
from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument
from services.ledger.model.changes import Image
from services.registry.model.name_errors import name_error
from services.registry.model.names import NAMESPACE_ID, NamespaceName

#: Tokens of a namespace that are neither revoked nor expired.
MOST_TOKENS = 1000
#: How long a token may be valid.
LONGEST = timedelta(days=366)
#: How long one that is revoked or has expired is kept.
KEPT = timedelta(days=90)
MOST_USES = 10_000
_MOST_DISPLAY_NAME = 200
_NAME = re.compile(rf"namespaces/({NAMESPACE_ID.pattern})/tokens/({TOKEN_ID.pattern})")
_SUBJECT = re.compile(rf"{API_TOKEN_SUBJECT}({NAMESPACE_ID.pattern})/({TOKEN_ID.pattern})")


@dataclass(frozen=True, slots=True)
class ApiTokenName:
    """
    namespaces/{namespace}/tokens/{token}.
    """

    namespace: str
    token: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> ApiTokenName:
        """
        Raises:
            InvalidArgument: *text* is not such a name.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/tokens/{token}"))
        return cls(match[1], match[2])

    @classmethod
    def of_subject(cls, subject: str) -> ApiTokenName:
        """
        Args:
            subject: of calls with the token.
        """
        match = _SUBJECT.fullmatch(subject)
        if match is None:
            raise ValueError(f"{subject!r} is not the subject of an API token")
        return cls(match[1], match[2])

    @classmethod
    def nowhere(cls) -> ApiTokenName:
        """
        See `Name`.
        """
        return cls("", "")

    @property
    def parent(self) -> NamespaceName:
        """
        The namespace.
        """
        return NamespaceName(self.namespace)

    def __str__(self) -> str:
        return f"{self.parent}/tokens/{self.token}"


class TokenState(Enum):
    """
    Whether a token is accepted.
    """

    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class ApiTokenDraft:
    """
    What a client sets.

    Args:
        role: NONE if the client named none.
        scopes: all that the role has use for, unless the client named some.
        expires: None if the client did not say.
    """

    display_name: str
    role: Role
    scopes: frozenset[str]
    expires: datetime | None

    def check(self, checks: Checks, at: str, now: datetime) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the token in the request.
            now: the current time.
        """
        checks.text(f"{at}.display_name", self.display_name, _MOST_DISPLAY_NAME)
        allowed = SCOPES.get(self.role)
        if allowed is None:
            checks.add(f"{at}.role", f"must be one of {', '.join(f'ROLE_{role.name}' for role in SCOPES)}")
        elif others := self.scopes - allowed:
            text = f"has {min(others)[:80]!r}; a token with this role can have {', '.join(sorted(allowed))}"
            checks.add(f"{at}.scopes", text)
        if self.expires is None or not now < self.expires <= now + LONGEST:
            checks.add(f"{at}.expire_time", f"must be in the future, at most {LONGEST.days} days ahead")

    def image(self, *, revoked: bool = False) -> Image:
        """
        The token as the audit log records it: without its secret and its hash.
        """
        return {
            "display_name": self.display_name,
            "role": self.role.name.lower(),
            "scopes": sorted(self.scopes),
            "expire_time": None if self.expires is None else self.expires.isoformat(),
            "revoked": revoked,
        }


@dataclass(frozen=True, slots=True)
class ApiToken:
    """
    A stored token.

    Args:
        creator: the subject of who created it.
        revoked: when it was revoked; None for one that is not.
        used: when it was last used; None for one that never was.
    """

    name: ApiTokenName
    draft: ApiTokenDraft
    creator: str
    created: datetime
    revoked: datetime | None
    used: datetime | None
    revision: int

    def state(self, now: datetime) -> TokenState:
        """
        Whether it is accepted.
        """
        if self.revoked is not None:
            return TokenState.REVOKED
        expires = self.draft.expires
        return TokenState.EXPIRED if expires is not None and expires <= now else TokenState.ACTIVE
