"""
Verification of tokens: JWTs by signature, issuer, audience and expiry, API tokens by their hash.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jwt

from services.chassis.access.api_tokens import PREFIX, UnknownTokenError, check_form, hash_of
from services.chassis.access.identity import API_TOKEN_SUBJECT, Identity
from services.chassis.access.keys import Keys
from services.chassis.access.policies import Policies
from services.chassis.errors import Unauthenticated, Unavailable

ALGORITHMS = ("RS256", "ES256")
#: Allowed clock skew in seconds.
LEEWAY = 10
_MOST_REMEMBERED = 10_000
_MOST_TOKEN = 8192
# Seconds until all that was committed before a call is known. Heartbeats come twice a second, and each hop may add one.
_PATIENCE = 2.0
# Calls that may wait for it: anybody can make up tokens.
_MOST_WAITING = 1000


class Verifier:
    """
    Verifies tokens. A valid token is cached until it expires or the keys change, so that a call costs one lookup.

    Args:
        keys: the public keys that tokens are signed with.
        issuer: the required issuer (`iss`).
        audience: the required audience (`aud`).
        groups: the claim with the names of the subject's groups, a list of texts or one text with spaces between them.

    Attributes:
        keys: as given.
    """

    def __init__(self, keys: Keys, issuer: str, audience: str, groups: str = "groups") -> None:
        self.keys = keys
        self._groups = groups
        self._issuer = issuer
        self._audience = audience
        self._known: dict[str, Identity] = {}
        self._version = keys.version
        self._policies: Policies | None = None
        self._told: list[Callable[[], object]] = []
        self._unknown: dict[bytes, None] = {}
        self._waiting = 0

    def accept_api_tokens(self, policies: Policies) -> None:
        """
        Accept API tokens from now on.

        Args:
            policies: with the live ones.
        """
        self._policies = policies
        for tell in self._told:
            policies.tokens.when_revoked(tell)

    def when_revoked(self, tell: Callable[[], object]) -> None:
        """
        Call *tell* in the event loop whenever tokens may have been revoked: see `recheck`.
        """
        self._told.append(tell)
        self.keys.when_changed(tell)
        if self._policies is not None:
            self._policies.tokens.when_revoked(tell)

    def verify(self, token: str) -> Identity:
        """
        The identity in a token.

        Raises:
            Unauthenticated: it has expired (TOKEN_EXPIRED), or is invalid (TOKEN_INVALID).
            UnknownTokenError: an API token that this process does not know: see `settle`.
            Unavailable: the keys have not been fetched yet, or are too old (TOKEN_KEYS_UNAVAILABLE), or API tokens may
                have been revoked (POLICY_STALE).
        """
        if token.startswith(PREFIX):
            return self._find(token)
        if not self.keys.current:
            raise Unavailable("TOKEN_KEYS_UNAVAILABLE", "the keys to verify tokens are not available", retry_after=1)
        if self._version != self.keys.version:
            self._known.clear()
            self._version = self.keys.version
        known = self._known.get(token)
        if known is None:
            known = self._decode(token)
            if len(self._known) >= _MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[token] = known
        if time.time() > known.expires + LEEWAY:
            self._known.pop(token, None)
            raise expired()
        return known

    def recheck(self, token: str) -> None:
        """
        Check a token that was accepted before: an API token that is known is not revoked, however old the news are.

        Raises:
            Unauthenticated, Unavailable: as `verify`.
        """
        if not token.startswith(PREFIX):
            self.verify(token)
        elif self._policies is not None and self._policies.tokens.find(hash_of(token)) is None:
            raise UnknownTokenError(hash_of(token))

    async def settle(self, error: UnknownTokenError) -> None:
        """
        Wait until it is certain whether there is a token that this process does not know: it may have been created a
        moment ago.

        Args:
            error: of `verify`.

        Raises:
            Unavailable: it is not certain (POLICY_STALE).
        """
        policies = self._policies
        if policies is None:
            return
        certain = False
        if self._waiting < _MOST_WAITING:
            self._waiting += 1
            try:
                certain = await policies.settle(error.token_hash, _PATIENCE)
            finally:
                self._waiting -= 1
        if not certain:
            raise Unavailable("POLICY_STALE", "whether there is such a token is not known yet", retry_after=1.0)
        if policies.tokens.find(error.token_hash) is None:
            # Nobody will create one that somebody has made up, or brings back one that was revoked.
            if len(self._unknown) >= _MOST_REMEMBERED:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[error.token_hash] = None

    async def reach(self, revision: int) -> None:
        """
        Wait until the API tokens are those of a revision, but not for long: it may be made up.
        """
        if self._policies is not None and revision > self._policies.applied:
            await self._policies.reach(revision)

    def _find(self, token: str) -> Identity:
        policies = self._policies
        if policies is None:
            raise _invalid("this service takes no API tokens")
        token_hash = hash_of(token)
        found = policies.tokens.find(token_hash)
        if found is None:
            # A known one has the right form: checking it costs as much as the rest.
            check_form(token)
        policies.check_current()
        if found is None:
            unknown = UnknownTokenError(token_hash)
            if token_hash in self._unknown:
                raise Unauthenticated(unknown.reason, unknown.message)
            raise unknown
        if time.time() > found.expires + LEEWAY:
            raise expired()
        policies.tokens.note_use(found)
        return found

    def _decode(self, token: str) -> Identity:
        if len(token) > _MOST_TOKEN:
            raise _invalid(f"it is longer than {_MOST_TOKEN} characters")
        try:
            key = self.keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise _invalid("it is signed with an unknown key")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise expired() from None
        except jwt.InvalidAudienceError:
            raise _invalid("it is for another audience") from None
        except jwt.InvalidIssuerError:
            raise _invalid("it is from another issuer") from None
        except jwt.PyJWTError as error:
            raise _invalid(str(error)) from None
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise _invalid("its scope claim is not a text")
        groups = _names(claims.get(self._groups, []))
        if str(claims["sub"]).startswith(API_TOKEN_SUBJECT):
            raise _invalid(f"its subject begins with {API_TOKEN_SUBJECT}, as those of API tokens do")
        return Identity(str(claims["sub"]), frozenset(scope.split()), float(claims["exp"]), groups)


def _names(claim: object) -> frozenset[str]:
    names = claim.split() if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise _invalid("its groups claim is not a list of texts")
    return frozenset(names)


def expired() -> Unauthenticated:
    """
    The error of a call whose token has expired.
    """
    return Unauthenticated("TOKEN_EXPIRED", "the token has expired: get a new one")


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated("TOKEN_INVALID", f"the token is not accepted: {why}")
