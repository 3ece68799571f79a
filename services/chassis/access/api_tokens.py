"""
API tokens: opaque bearer tokens for machines without an identity provider: see docs/adr/0049.

A token is `my_{id}_{secret}{checksum}`. The prefix lets secret scanners find it, and the checksum tells a typo from an
unknown token without a look-up. The secret has 190 random bits, so that a plain SHA-256 protects it as well as a slow
hash would: nobody can try them all. Tokens are found by their hash: comparing secrets would take time that depends on
how much of them is right.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.chassis.access.identity import API_TOKEN_SUBJECT, Identity
from services.chassis.access.roles import Role
from services.chassis.errors import Unauthenticated

PREFIX: Final = "my_"
#: The id in a token, and the last segment of its name.
TOKEN_ID: Final = re.compile(r"[0-9a-z]{10}")
FORM: Final = re.compile(rf"{PREFIX}({TOKEN_ID.pattern})_[0-9A-Za-z]{{38}}")
_ID_LETTERS = string.digits + string.ascii_lowercase
_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET, _CHECKSUM = 32, 6
#: Seconds between two reports of the use of one token.
USE_SECONDS: Final = 60.0

_READS: Final = ("assets.read", "registry.read")
_WRITES: Final = ("assets.write", "registry.write")
#: What tokens of each role may do at all.
SCOPES: Final[Mapping[Role, frozenset[str]]] = {
    Role.READER: frozenset(_READS),
    Role.WRITER: frozenset(_READS + _WRITES),
    Role.MAINTAINER: frozenset(_READS + _WRITES),
    Role.OWNER: frozenset(_READS + _WRITES),
}


class UnknownTokenError(Unauthenticated):
    """
    There is no such token, as far as this process knows: it may have been created a moment ago.

    Args:
        token_hash: of the token.
    """

    def __init__(self, token_hash: bytes) -> None:
        super().__init__("TOKEN_INVALID", "the token is not accepted: it was revoked, or never existed")
        self.token_hash = token_hash


@dataclass(frozen=True, slots=True)
class LiveToken:
    """
    A token that is not revoked.

    Args:
        token_id: the id in it.
        token_hash: see `hash_of`.
        role: in its namespace.
        scopes: what it may do at all.
        expires: in seconds since 1970.
    """

    token_id: str
    token_hash: bytes
    role: Role
    scopes: frozenset[str]
    expires: float

    def identity(self, namespace: str) -> Identity:
        """
        The identity of a caller with this token.

        Args:
            namespace: the id of the token's namespace.
        """
        # Whatever is stored: never more than its role has use for, and never break-glass access.
        scopes = self.scopes & SCOPES[self.role]
        return Identity(subject_of(namespace, self.token_id), scopes, self.expires, grant=(namespace, self.role))


def make() -> tuple[str, str]:
    """
    A new token: its id, and the token itself.
    """
    token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(10))
    body = f"{PREFIX}{token_id}_{''.join(secrets.choice(_LETTERS) for _ in range(_SECRET))}"
    return token_id, body + _checksum(body)


def check_form(token: str) -> None:
    """
    Raises:
        Unauthenticated: it is not an API token, or one with a typo (TOKEN_INVALID).
    """
    if FORM.fullmatch(token) is None:
        raise Unauthenticated("TOKEN_INVALID", "the token is not accepted: it is not complete, or has other characters")
    if _checksum(token[:-_CHECKSUM]) != token[-_CHECKSUM:]:
        raise Unauthenticated("TOKEN_INVALID", "the token is not accepted: its checksum is wrong, so it has a typo")


def hash_of(token: str) -> bytes:
    """
    What is stored of a token.
    """
    return hashlib.sha256(token.encode(errors="replace")).digest()


def subject_of(namespace: str, token_id: str) -> str:
    """
    The subject of calls with a token.
    """
    return f"{API_TOKEN_SUBJECT}{namespace}/{token_id}"


class ApiTokens:
    """
    The live tokens of all namespaces in memory, and when they were used.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, Identity] = {}
        self._of: dict[str, frozenset[bytes]] = {}
        self._told: list[Callable[[], object]] = []
        self._used: dict[str, float] = {}
        self._reported: dict[str, float] = {}

    def replace(self, tokens: Mapping[str, Sequence[LiveToken]], *, complete: bool = False) -> None:
        """
        Take the live tokens of some namespaces.

        Args:
            tokens: all live ones, by the ids of their namespaces.
            complete: other namespaces have none.
        """
        gone: set[bytes] = set()
        for namespace in [each for each in self._of if each not in tokens] if complete else ():
            gone |= self._of.pop(namespace)
        for namespace, live in tokens.items():
            before = self._of.pop(namespace, frozenset())
            after = {each.token_hash: each.identity(namespace) for each in live}
            if after:
                self._of[namespace] = frozenset(after)
            gone |= before - after.keys()
            # One that has not changed keeps its decisions.
            self._found.update((key, each) for key, each in after.items() if self._found.get(key) != each)
        for each in gone:
            subject = self._found.pop(each).subject
            self._reported.pop(subject, None)
        if gone:
            for tell in self._told:
                tell()

    def find(self, token_hash: bytes) -> Identity | None:
        """
        Whose token it is; None for one that is not live.
        """
        return self._found.get(token_hash)

    def when_revoked(self, tell: Callable[[], object]) -> None:
        """
        Call *tell* whenever tokens are no longer live.
        """
        self._told.append(tell)

    def note_use(self, identity: Identity) -> None:
        """
        Record that a token was used now.
        """
        self._used[identity.subject] = time.time()

    def take_uses(self) -> dict[str, float]:
        """
        When tokens were used last, in seconds since 1970 by their subjects: those that were used since their last
        report, which was a minute ago or more.
        """
        now = time.time()
        due = {
            subject: used
            for subject, used in self._used.items()
            if now - self._reported.get(subject, 0.0) >= USE_SECONDS
        }
        for subject in due:
            del self._used[subject]
            self._reported[subject] = now
        return due

    def put_back(self, uses: Mapping[str, float]) -> None:
        """
        Uses that could not be reported.
        """
        for subject, used in uses.items():
            self._used.setdefault(subject, used)
            self._reported.pop(subject, None)


def _checksum(body: str) -> str:
    number, found = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, len(_LETTERS))
        found = _LETTERS[rest] + found
    return found
