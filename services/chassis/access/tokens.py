"""
Verification of tokens: signature by a known key, issuer, audience, and expiry.
"""

from __future__ import annotations

import time

import jwt

from services.chassis.access.identity import Identity
from services.chassis.access.keys import Keys
from services.chassis.errors import Unauthenticated, Unavailable

ALGORITHMS = ("RS256", "ES256")
#: Allowed clock skew in seconds.
LEEWAY = 10
_MOST_REMEMBERED = 10_000
_MOST_TOKEN = 8192


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

    def verify(self, token: str) -> Identity:
        """
        The identity in a token.

        Raises:
            Unauthenticated: it has expired (TOKEN_EXPIRED), or is invalid (TOKEN_INVALID).
            Unavailable: the keys have not been fetched yet, or are too old (TOKEN_KEYS_UNAVAILABLE).
        """
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
