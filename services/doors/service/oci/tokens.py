"""
Tokens for clients of OCI registries (https://distribution.github.io/distribution/spec/auth/token/ and /oauth/).

Nothing is issued: the token of this suite, which is the password of a login, comes back as the token to send. Whoever
has none gets a word that stands for nobody, since clients take no empty one.
"""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import InvalidArgument, Unauthenticated
from services.doors.model.oci.names import Name
from services.doors.service.doors import Doors
from services.doors.service.http import form_body, sendable, token
from services.doors.service.oci.errors import CHALLENGE, NOBODY

_NOBODY: Final = "anonymous"
_SECONDS: Final = 300
_MOST_SECONDS: Final = 86_400
_MOST_BODY: Final = 1 << 16


class Tokens:
    """
    Handlers for tokens.

    Args:
        doors: what all handlers share.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def get(self, request: Request) -> Response:
        """
        GET /v2/token: the password of Basic authentication as a token.
        """
        self._challenge_basic(request)
        return await self._issued(token(request))

    async def post(self, request: Request) -> Response:
        """
        POST /v2/token: the password, or the refresh token, of an OAuth2 form.
        """
        self._challenge_basic(request)
        form = await form_body(request, _MOST_BODY, 32)
        kind = form.get("grant_type", [""])[0]
        field = {"password": "password", "refresh_token": "refresh_token"}.get(kind)
        if field is None:
            raise InvalidArgument.of("grant_type", "is neither password nor refresh_token")
        found = sendable(form.get(field, [""])[0])
        if not found:
            raise Unauthenticated("TOKEN_MISSING", f"{field} is missing: it is a token of this registry")
        return await self._issued(found, refresh=True)

    async def _issued(self, found: str, *, refresh: bool = False) -> Response:
        seconds = _SECONDS
        if found == _NOBODY:
            found = ""
        if found and self._doors.verifier is not None:
            left = (await self._doors.verified(self._doors.verifier, found)).expires - time.time()
            seconds = int(max(1.0, min(left, _MOST_SECONDS)))
        found = found or _NOBODY
        answer = {"token": found, "access_token": found, "expires_in": seconds}
        if refresh:
            answer["refresh_token"] = found
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    @staticmethod
    def _challenge_basic(request: Request) -> None:
        request.scope[CHALLENGE] = 'Basic realm="modelyard"'


def caller(request: Request, doors: Doors, name: Name | None = None) -> str:
    """
    The token of a caller, empty for nobody; the request knows from then on what to tell a caller without one.

    Args:
        name: of the repository that it asks for.

    Raises:
        Unauthenticated: the credentials cannot be read.
    """
    origin = doors.origin(request)
    scope = f',scope="repository:{name.text}:pull"' if name else ""
    request.scope[CHALLENGE] = f'Bearer realm="{origin}/v2/token",service="{origin.partition("//")[2]}"{scope}'
    found = token(request)
    request.scope[NOBODY] = doors.verifier is not None and not found
    return "" if found == _NOBODY else found
