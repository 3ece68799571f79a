"""
Access control of the embedded run.
"""

from __future__ import annotations

from embedded import access
from gateway.access import Login

SETTINGS = {
    "MODELYARD_ACCESS": "on",
    "MODELYARD_JWKS_FILE": "jwks.json",
    "MODELYARD_JWT_ISSUER": "https://issuer.example",
    "MODELYARD_JWT_AUDIENCE": "modelyard",
}


def login(**more: str) -> Login | None:
    """
    What the gateway tells of logins.
    """
    found = access.tokens({**SETTINGS, **more})
    assert found is not None
    return found.login


def test_the_gateway_tells_where_to_log_in() -> None:
    """
    With a client id, the gateway names the client, the issuer of the tokens unless there is another one, and the
    scopes; without one, nothing.
    """
    assert login() is None
    assert login(MODELYARD_LOGIN_CLIENT_ID="") is None
    usual = Login("https://issuer.example", "cli", "openid offline_access")
    assert login(MODELYARD_LOGIN_CLIENT_ID="cli") == usual
    others = {"MODELYARD_LOGIN_ISSUER": "https://people.example", "MODELYARD_LOGIN_SCOPES": "openid registry.read"}
    found = Login("https://people.example", "cli", "openid registry.read")
    assert login(MODELYARD_LOGIN_CLIENT_ID="cli", **others) == found
