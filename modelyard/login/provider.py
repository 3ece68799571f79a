"""
The identity provider: discovery, and the tokens that it issues.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.login.credentials import Credentials, LoginOptions
from modelyard.login.errors import LoginError
from modelyard.login.requests import check_url, get

_TOKEN = re.compile(r"[\x21-\x7e]+")
# Tokens are refreshed this many seconds before they expire, or in the last fifth of their life if that is shorter.
_EARLY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Provider:
    """
    An issuer's endpoints.

    Args:
        issuer: its URL.
        token: the token endpoint.
        authorization: the authorization endpoint; empty if there is none.
        device: the device authorization endpoint; empty if there is none.
        revocation: the revocation endpoint; empty if there is none.
        names_itself: whether responses to the browser name the issuer (RFC 9207).
    """

    issuer: str
    token: str
    authorization: str = ""
    device: str = ""
    revocation: str = ""
    names_itself: bool = False


def discover(issuer: str) -> Provider:
    """
    The endpoints of an issuer (OpenID Connect Discovery 1.0).

    Raises:
        LoginError: there is no answer (temporary); or the document is another issuer's, or has an invalid endpoint.
    """
    base = check_url(issuer, "the issuer").rstrip("/")
    found = get(f"{base}/.well-known/openid-configuration")
    # Otherwise one issuer could pose as another (mix-up attack).
    if found.get("issuer") != issuer:
        raise LoginError(
            f"the configuration of the issuer {issuer} is that of another one, {str(found.get('issuer'))[:200]!r}: "
            "give exactly this URL if it is the right one"
        )
    methods = found.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        found.pop("authorization_endpoint", None)

    def endpoint(name: str) -> str:
        return check_url(found[name], f"{name} of {issuer}") if found.get(name) else ""

    if not (token := endpoint("token_endpoint")):
        raise LoginError(f"the issuer {issuer} has no token_endpoint")
    return Provider(
        issuer,
        token,
        endpoint("authorization_endpoint"),
        endpoint("device_authorization_endpoint"),
        endpoint("revocation_endpoint"),
        found.get("authorization_response_iss_parameter_supported") is True,
    )


def credentials(found: Mapping[str, Any], options: LoginOptions, before: Credentials | None = None) -> Credentials:
    """
    The tokens in an answer of the token endpoint.

    Args:
        found: the answer.
        options: what was asked for.
        before: the refreshed credentials, whose refresh token stays valid unless there is a new one.

    Raises:
        LoginError: it has no bearer token that Modelyard can verify.
    """
    access, kind = found.get("access_token"), found.get("token_type")
    if not isinstance(access, str) or not _TOKEN.fullmatch(access) or str(kind).lower() != "bearer":
        raise LoginError(f"{options.issuer} issued no bearer token")
    stated = claims(access)
    if stated is None:
        raise LoginError(
            f"the access token of {options.issuer} is not a JWT, so Modelyard cannot verify it: providers that issue "
            "opaque tokens by default need an audience (--audience)"
        )
    refresh = found.get("refresh_token")
    if not isinstance(refresh, str) or not refresh:
        refresh = before.refresh if before else ""
    now, seconds = time.time(), _seconds(found.get("expires_in"))
    if seconds is None:
        expires = stated.get("exp")
        seconds = max(float(expires) - now, 0.0) if isinstance(expires, int | float) else 3600.0
    return Credentials(options, access, refresh, now + seconds, now + seconds - min(_EARLY_SECONDS, seconds / 5))


def check_id_token(found: Mapping[str, Any], options: LoginOptions, nonce: str | None) -> None:
    """
    Check the ID token in an answer of the token endpoint. Its signature adds nothing: it came from the issuer itself,
    over TLS (OpenID Connect Core 1.0, section 3.1.3.7, item 6).

    Args:
        found: the answer.
        options: what was asked for.
        nonce: that was sent; None for flows without one, in which an ID token is optional.

    Raises:
        LoginError: it is missing, another issuer's or client's, expired, or the answer to another request.
    """
    token = found.get("id_token")
    if token is None and (nonce is None or "openid" not in options.scopes.split()):
        return
    said = claims(token) if isinstance(token, str) else None
    wrong = _fault(said, options, nonce)
    if wrong:
        raise LoginError(f"the ID token of {options.issuer} is rejected: {wrong}")


def _fault(said: Mapping[str, Any] | None, options: LoginOptions, nonce: str | None) -> str:
    if said is None:
        return "it is missing, or not a JWT"
    audience = said.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    expires = said.get("exp")
    if said.get("iss") != options.issuer:
        return f"its issuer is {str(said.get('iss'))[:200]!r}"
    if options.client_id not in audiences or said.get("azp", options.client_id) != options.client_id:
        return "it is for another client"
    # Ten seconds of clock skew, as the services tolerate.
    if not isinstance(expires, int | float) or expires + 10 < time.time():
        return "it has expired: is the clock of this machine right?"
    if nonce is not None and said.get("nonce") != nonce:
        return "it is the answer to another login"
    return ""


def claims(token: str) -> dict[str, Any] | None:
    """
    The claims of a JWT, unverified; None if it is not a JWT.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _seconds(value: object) -> float | None:
    # Some providers send the number as a string.
    try:
        seconds = float(value) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e9 else None
