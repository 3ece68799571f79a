"""
What the handlers of all protocols are handed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from starlette.requests import Request

from services.chassis.access.api_tokens import PREFIX, check_form
from services.chassis.access.identity import ANYBODY, Identity
from services.chassis.access.tokens import Verifier
from services.chassis.errors import Unauthenticated
from services.doors.service.http import token
from services.doors.store.recent import Recent
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite

_READ: Final = "registry.read"
_WRITE: Final = "registry.write"
_WRITES: Final = "models.write"


@dataclass(frozen=True, slots=True)
class Doors:
    """
    Args:
        suite: the other services.
        registry: reads of it.
        verifier: of tokens; None while access control is off.
        namespace: of names that have none.
        recent: versions that were read lately.
        public_url: of the gateway as clients see it; None: from the Host header.
    """

    suite: Suite
    registry: Registry
    verifier: Verifier | None
    namespace: str = "default"
    recent: Recent = field(default_factory=lambda: Recent(64 << 20))
    public_url: str | None = None

    def origin(self, request: Request) -> str:
        """
        The URL of the gateway, without a path.
        """
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        # The gateway accepts only hosts that it knows, and says by which scheme it was called.
        scheme = request.headers.get("x-forwarded-proto", "http")
        return f"{'https' if scheme == 'https' else 'http'}://{request.headers.get('host', 'localhost')}"

    def asset(self, request: Request, sha256: str) -> str:
        """
        The URL of the bytes with a digest, which the gateway serves.
        """
        return f"{self.origin(request)}/assets/{sha256}"

    async def identified(self, request: Request) -> Identity | None:
        """
        Who calls, for what nobody may do without a token; None while access control is off.

        Raises:
            Unauthenticated: there is no token (TOKEN_MISSING), or it is not accepted.
            Unavailable: the keys to verify it are not available.
            grpc.aio.AioRpcError: the registry does not accept it, or does not answer.
        """
        if self.verifier is None:
            return None
        found = token(request)
        if not found:
            raise _missing()
        return await self.verified(self.verifier, found)

    async def verified(self, verifier: Verifier, token: str) -> Identity:
        """
        Whose token it is, by the verifier if it is a JWT. API tokens are opaque: the registry is asked, and of their
        scopes it is known only whether they write in the default namespace.

        Raises:
            as `identified`.
        """
        if not token.startswith(PREFIX):
            return verifier.verify(token)
        check_form(token)
        scopes = {_READ}
        try:
            if await self.registry.may(_WRITES, f"namespaces/{self.namespace}", token):
                scopes.add(_WRITE)
        except grpc.aio.AioRpcError as error:
            # It is valid, though not for the registry: for bytes alone.
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            scopes.clear()
        return Identity(token.rpartition("_")[0], frozenset(scopes), float("inf"))

    async def caller(self, request: Request) -> Identity | None:
        """
        As `identified`, for what everybody may do: nobody is `ANYBODY`.
        """
        if self.verifier is None:
            return None
        found = token(request)
        return await self.verified(self.verifier, found) if found else ANYBODY


def _missing() -> Unauthenticated:
    return Unauthenticated("TOKEN_MISSING", "this needs a token: authorization: Bearer …")
