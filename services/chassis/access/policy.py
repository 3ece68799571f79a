"""
Which calls are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from services.chassis.access.identity import ANYBODY, Identity
from services.chassis.access.tokens import Verifier
from services.chassis.errors import PermissionDenied, Unauthenticated
from services.chassis.serving.context import Context, values_of

Check = Callable[[Context], Identity]

#: The scopes that need no token where reading is public.
PUBLIC: Final = frozenset({"registry.read", "assets.read"})
#: What the scope `admin` includes: break-glass access to the registry.
ADMINISTERED: Final = "registry."
HEALTH: Final = "/grpc.health.v1.Health/"
REFLECTION: Final = "/grpc.reflection."


class AccessMode(StrEnum):
    """
    Which calls need a token.

    `off` is for local development: the process then serves on loopback only. To serve a network without tokens, set
    `open-to-everybody`.
    """

    OFF = "off"
    OPEN = "open-to-everybody"
    READ_PUBLIC = "read-public"
    ON = "on"

    @property
    def asks(self) -> bool:
        """
        Whether any call needs a token.
        """
        return self in {AccessMode.READ_PUBLIC, AccessMode.ON}


@dataclass(frozen=True, slots=True)
class Access:
    """
    The access check of every call.

    Args:
        mode: on or read-public.
        verifier: verifies tokens.
        reflection: whether reflection is open to everybody; otherwise it is denied.
    """

    mode: AccessMode
    verifier: Verifier
    reflection: bool = False

    def check(self, path: str, scopes: Mapping[str, str]) -> Check:
        """
        The check of one method: it returns the caller's identity, or raises

        * Unauthenticated: no valid token (TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID).
        * PermissionDenied: the token lacks the scope (SCOPE_MISSING).

        Args:
            path: of the method.
            scopes: the required scope of each method, by path. A method without one is denied to everybody.
        """
        if path.startswith(HEALTH) or (path.startswith(REFLECTION) and self.reflection):
            return lambda _: ANYBODY
        scope = scopes.get(path, "")
        if self.mode is AccessMode.READ_PUBLIC and scope in PUBLIC:
            return partial(_check_public, self.verifier.verify)
        return partial(_check, self.verifier.verify, scope)


def _check_public(verify: Callable[[str], Identity], context: Context) -> Identity:
    # A token that is sent has to be valid: its sender does not expect to be anonymous.
    token = bearer(context)
    return ANYBODY if token is None else verify(token)


def _check(verify: Callable[[str], Identity], scope: str, context: Context) -> Identity:
    token = bearer(context)
    if token is None:
        raise Unauthenticated("TOKEN_MISSING", "this call needs a token: authorization: Bearer …")
    identity = verify(token)
    if scope and (scope in identity.scopes or (identity.is_admin and scope.startswith(ADMINISTERED))):
        return identity
    needs = f"needs the scope {scope}" if scope else "is not open to anybody"
    raise PermissionDenied("SCOPE_MISSING", f"this call {needs}", metadata={"scope": scope})


def bearer(context: Context) -> str | None:
    """
    The token that came with a call.

    Raises:
        Unauthenticated: the header has another scheme, or there are two.
    """
    found = values_of(context, "authorization")
    if not found:
        return None
    scheme, _, token = str(found[0]).partition(" ")
    if len(found) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated("TOKEN_INVALID", "the token is not accepted: send one as authorization: Bearer …")
    return token.strip()
