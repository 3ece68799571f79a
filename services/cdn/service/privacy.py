"""
Visibility of private assets.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from services.cdn.model import Asset, asset_name
from services.chassis.access import ANYBODY
from services.chassis.errors import FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from services.chassis.interceptors import identity
from services.chassis.serving.context import Context
from services.ledger.model.calls import Missing, Read
from services.ledger.service.calls import reflect

_READ = "assets.read"


class Privacy:
    """
    The visibility rules, by the token of the current call. While access control is off there are no verified tokens, so
    private assets are invisible to everybody and cannot be uploaded.

    Callers who may not see an asset get exactly the response for an asset that does not exist.
    """

    def sees(self) -> bool:
        """
        Whether the caller may see private assets and download them.
        """
        known = identity()
        return known is not None and _READ in known.scopes

    def signs(self) -> bool:
        """
        Whether the caller may presign URLs of private assets, which requires the scope of that RPC.
        """
        known = identity()
        return known is not None and known is not ANYBODY

    def check_upload(self, *, private: bool) -> None:
        """
        Raises:
            FailedPrecondition: private assets are not supported here (PRIVATE_NEEDS_ACCESS).
        """
        if private and identity() is None:
            raise FailedPrecondition(
                "PRIVATE_NEEDS_ACCESS",
                "private assets need access control: set MODELYARD_ACCESS to on or read-public, or upload publicly",
            )

    def check_watch(self) -> None:
        """
        Changes contain names of private assets, and a watcher must get all changes or none.

        Raises:
            Unauthenticated, PermissionDenied: the caller may not see private assets.
        """
        known = identity()
        if known is ANYBODY:
            raise Unauthenticated("TOKEN_MISSING", "changes may name private assets: this call needs a token")
        if known is not None and _READ not in known.scopes:
            raise PermissionDenied("SCOPE_MISSING", f"this call needs the scope {_READ}", metadata={"scope": _READ})

    async def read(self, context: Context, sha256: str, reading: Coroutine[Any, Any, Read[Asset]]) -> Asset:
        """
        Read an asset if the caller may see it, and report the revision of the response. Responses that depend on the
        caller are marked `Cache-Control: private` (RFC 9111, section 5.2.2.7).

        Raises:
            NotFound: there is no such asset, or the caller may not see it.
        """
        sees, alike = self.sees(), identity() is None
        try:
            asset = (await reflect(context, _seen(reading) if not sees else reading)).value
        except Missing as error:
            # Without access control, caches may store a negative response. With it, a hidden asset must be
            # indistinguishable from a missing one, also by what a cache stores.
            if sees or alike:
                raise
            _own(context)
            raise hidden(sha256) from error
        if asset.private:
            _own(context)
        return asset


def hidden(sha256: str) -> NotFound:
    """
    The error for callers who may not learn whether a private asset exists.
    """
    name = asset_name(sha256)
    return NotFound(
        "ASSET_NOT_FOUND", name, f"{name} does not exist, or is private and needs a token with the scope {_READ}"
    )


async def _seen(reading: Coroutine[Any, Any, Read[Asset]]) -> Read[Asset]:
    try:
        found = await reading
    except Missing as error:
        if identity() is None:
            raise
        # Hidden assets have no revision in their response, so missing ones have none either.
        error.revision = None
        raise
    if found.value.private:
        raise Missing("ASSET_NOT_FOUND", found.value.name, found.revision if identity() is None else None)
    return found


def _own(context: Context) -> None:
    context.set_trailing_metadata((*context.trailing_metadata(), ("cache-control", "private")))
