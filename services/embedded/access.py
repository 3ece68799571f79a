"""
Access control of the embedded run: a key of its own, for development.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.access import Tokens
from modelyard.contracts import scopes
from modelyard.tokens import AUDIENCE, ISSUER, key_set, make_key, mint
from services.chassis.access import AccessMode

_OWN_SCOPES = ("registry.read", "assets.read", "assets.write")
# A new one is minted at every start.
_OWN_SECONDS = 366 * 86400.0


def developer_token(state: Path) -> Path:
    """
    The file with a token for whoever runs the suite, who has its key, too: with every scope.
    """
    return state / "access" / "token"


def settings(state: Path, mode: str) -> dict[str, str]:
    """
    The settings of all services. The key is made once; it, its public half, the services' token and one for whoever
    runs this are in *state*.

    Args:
        state: the folder of the run.
        mode: off, read-public or on.
    """
    if mode == "off":
        return {}
    folder = state / "access"
    folder.mkdir(mode=0o700, exist_ok=True)
    key, public, own = folder / "key.pem", folder / "jwks.json", folder / "service-token"
    if not key.exists():
        make_key(key)
    public.write_text(key_set(key))
    for file, subject, allowed in (
        (own, "modelyard-services", _OWN_SCOPES),
        (developer_token(state), "developer", sorted(set(scopes().values()))),
    ):
        file.touch(mode=0o600)
        file.write_text(mint(key, subject, allowed, _OWN_SECONDS))
    return {
        "MODELYARD_ACCESS": mode,
        "MODELYARD_JWKS_FILE": str(public),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
        "MODELYARD_SERVICE_TOKEN_FILE": str(own),
    }


def tokens(services: Mapping[str, str]) -> Tokens | None:
    """
    What the gateway checks: the same as the services, whose settings these are.
    """
    mode = AccessMode(services.get("MODELYARD_ACCESS", AccessMode.OFF))
    if mode is AccessMode.OFF:
        return None
    url = services.get("MODELYARD_JWKS_URL")
    return Tokens(
        mode,
        services["MODELYARD_JWT_ISSUER"],
        services["MODELYARD_JWT_AUDIENCE"],
        url or Path(services["MODELYARD_JWKS_FILE"]),
        reflection=services.get("MODELYARD_REFLECTION_OPEN", "") == "true",
    )
