"""
What a login is kept as.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Scopes that every issuer knows: an identity, and a refresh token.
DEFAULT_SCOPES = "openid offline_access"


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """
    Where and as what to log in.

    Args:
        issuer: URL of the identity provider.
        client_id: the public client that is registered there for Modelyard.
        audience: the audience to ask for, which some providers need; empty for none.
        scopes: to ask for, separated by spaces.
    """

    issuer: str
    client_id: str
    audience: str = ""
    scopes: str = DEFAULT_SCOPES


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    The tokens of a login. Neither shows in `repr`.

    Args:
        options: how they were obtained.
        access: the access token.
        refresh: the refresh token; empty for none.
        expires: when the access token expires, in seconds since 1970 by this machine's clock.
        due: when it should be refreshed.
    """

    options: LoginOptions
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    expires: float
    due: float
