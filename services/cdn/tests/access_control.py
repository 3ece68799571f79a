"""
The asset service with access control, and callers with tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard import aio
from modelyard.tokens import AUDIENCE, ISSUER, key_set, make_key, mint
from services.cdn.tests.conftest import Cdn, World, serving_here

__all__ = ["AccessControlled", "access_controlled"]


@dataclass(frozen=True)
class AccessControlled:
    """
    A service that accepts tokens.

    Args:
        key: that signs them.
    """

    cdn: Cdn
    key: Path

    def as_(self, subject: str, *scopes: str) -> aio.Client:
        """
        A client with a token of the given subject.
        """
        return aio.connect(self.cdn.target, mint(self.key, subject, scopes or ("assets.read", "assets.write"), 600.0))


@asynccontextmanager
async def access_controlled(
    world: World, folder: Path, mode: str = "read-public", **more: Any
) -> AsyncIterator[AccessControlled]:
    """
    Serve while the block lasts.

    Args:
        more: further settings.
    """
    key, public = folder / "key.pem", folder / "jwks.json"
    make_key(key)
    public.write_text(key_set(key))
    settings: dict[str, Any] = {
        "MODELYARD_ACCESS": mode,
        "MODELYARD_JWKS_FILE": str(public),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
    }
    async with serving_here(world, **settings, **more) as cdn:
        yield AccessControlled(cdn, key)
