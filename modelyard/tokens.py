"""
Development tokens: a signing key, its key set (JWKS), and signed tokens.

Needs PyJWT and cryptography: the extra `tokens`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ISSUER = "modelyard-development"
AUDIENCE = "modelyard"


def make_key(file: Path) -> None:
    """
    Write a new private key (P-256) that only this user can read.

    Raises:
        OSError: the file is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
        made.write(pem)


def key_set(file: Path) -> str:
    """
    The public half of the key in *file*, as a JSON Web Key Set.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no key.
    """
    return json.dumps({"keys": [_public(_load(file))]})


def mint(file: Path, subject: str, scopes: Iterable[str], seconds: float, groups: Iterable[str] = ()) -> str:
    """
    A token, signed with the key in *file*.

    Args:
        file: the private key.
        subject: subject of the token.
        scopes: granted scopes.
        seconds: validity.
        groups: names of the subject's groups.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no key.
    """
    import jwt

    key, now = _load(file), int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + int(seconds),
        "scope": " ".join(scopes),
        "groups": list(groups),
    }
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": _public(key)["kid"]})


def _load(file: Path) -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(file.read_bytes(), password=None)


def _public(key: Any) -> dict[str, str]:
    from jwt.algorithms import ECAlgorithm

    found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # The name is the key's thumbprint (RFC 7638).
    plain = json.dumps({name: found[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    return {**found, "kid": hashlib.sha256(plain.encode()).hexdigest()[:16], "alg": "ES256", "use": "sig"}
