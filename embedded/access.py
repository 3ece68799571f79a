"""
Access control of the embedded run: a key of its own, for development.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.access import LOGIN_SCOPES, Login, Tokens
from modelyard.contracts import public_scopes
from modelyard.tokens import AUDIENCE, ISSUER, key_set, make_key, mint
from services.chassis.access import AccessMode

#: What each service's own token may do: what the service does on its own behalf, and no more.
OWN_SCOPES: Final[Mapping[str, Sequence[str]]] = {
    "registry": ("assets.read", "assets.pin"),
    "cache": ("registry.read", "registry.follow", "assets.read"),
    "cdn": ("registry.follow",),
}
#: Where people log in; the same names as on the command line.
LOGIN: Final = ("MODELYARD_LOGIN_CLIENT_ID", "MODELYARD_LOGIN_ISSUER", "MODELYARD_LOGIN_SCOPES")
# A new one is minted at every start.
_OWN_SECONDS = 366 * 86400.0


def developer_token(state: Path) -> Path:
    """
    The file with a token for whoever runs the suite, who has its key, too: with every scope.
    """
    return state / "access" / "token"


def settings(state: Path, mode: str) -> dict[str, str]:
    """
    The settings of all services. The key is made once; it, its public half and a token for whoever runs this are in
    *state*.

    Args:
        state: the folder of the run.
        mode: off, read-public or on.
    """
    if mode == "off":
        return {}
    folder = state / "access"
    folder.mkdir(mode=0o700, exist_ok=True)
    key, public = folder / "key.pem", folder / "jwks.json"
    if not key.exists():
        make_key(key)
    public.write_text(key_set(key))
    _write(developer_token(state), key, "developer", sorted(set(public_scopes().values())))
    return {
        "MODELYARD_ACCESS": mode,
        "MODELYARD_JWKS_FILE": str(public),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
    }


def own(state: Path, mode: str, service: str) -> dict[str, str]:
    """
    The settings of one service alone: its own token, if it has any.
    """
    if mode == "off" or service not in OWN_SCOPES:
        return {}
    token = state / "access" / f"{service}-token"
    _write(token, state / "access" / "key.pem", f"modelyard-{service}", OWN_SCOPES[service])
    return {"MODELYARD_SERVICE_TOKEN_FILE": str(token)}


def _write(file: Path, key: Path, subject: str, allowed: Sequence[str]) -> None:
    file.touch(mode=0o600)
    file.write_text(mint(key, subject, allowed, _OWN_SECONDS))


def tokens(services: Mapping[str, str]) -> Tokens | None:
    """
    What the gateway checks: the same as the services, whose settings these are.
    """
    mode = AccessMode(services.get("MODELYARD_ACCESS", AccessMode.OFF))
    if not mode.asks:
        return None
    url = services.get("MODELYARD_JWKS_URL")
    return Tokens(
        mode,
        services["MODELYARD_JWT_ISSUER"],
        services["MODELYARD_JWT_AUDIENCE"],
        url or Path(services["MODELYARD_JWKS_FILE"]),
        reflection=services.get("MODELYARD_REFLECTION_OPEN", "") == "true",
        login=_login(services),
    )


def _login(services: Mapping[str, str]) -> Login | None:
    client = services.get("MODELYARD_LOGIN_CLIENT_ID")
    if not client:
        return None
    issuer = services.get("MODELYARD_LOGIN_ISSUER") or services["MODELYARD_JWT_ISSUER"]
    return Login(issuer, client, services.get("MODELYARD_LOGIN_SCOPES") or LOGIN_SCOPES)
