"""
An issuer of tokens for the tests.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "modelyard"


class Issuer:
    """
    A pair of keys, RS256 and ES256, whose public halves are in a file.

    Args:
        file: where to write the key set.
        name: of the keys.
    """

    def __init__(self, file: Path, name: str = "one") -> None:
        self.file = file
        self._name = name
        self._keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
        }
        sets = {
            "RS256": RSAAlgorithm.to_jwk(self._keys["RS256"].public_key(), as_dict=True),
            "ES256": ECAlgorithm.to_jwk(self._keys["ES256"].public_key(), as_dict=True),
        }
        keys = [{**key, "kid": f"{name}-{kind}", "alg": kind, "use": "sig"} for kind, key in sets.items()]
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": keys}))
        fresh.replace(file)

    def mint(self, scope: object, algorithm: str = "ES256", **claims: object) -> str:
        """
        A token of "ann" with these scopes; *claims* replace the usual ones.
        """
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 3600, "scope": scope}
        return self.sign({**usual, **claims}, algorithm)

    def sign(self, claims: dict[str, Any], algorithm: str = "ES256") -> str:
        """
        A token with these claims and no others.
        """
        headers = {"kid": f"{self._name}-{algorithm}"}
        return jwt.encode(claims, self._keys[algorithm], algorithm=algorithm, headers=headers)

    def resign(self, claims: dict[str, Any], algorithm: str) -> str:
        """
        A token that is signed with the key of RS256 by another algorithm for such keys.
        """
        headers = {"kid": f"{self._name}-RS256"}
        return jwt.encode(claims, self._keys["RS256"], algorithm=algorithm, headers=headers)


def settings(issuer: Issuer, mode: str = "on") -> dict[str, str]:
    """
    The settings of a service that takes the issuer's tokens.
    """
    return {
        "MODELYARD_ACCESS": mode,
        "MODELYARD_JWKS_FILE": str(issuer.file),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
    }
