"""
Who may know of private assets.
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
    The rules, by the token of the call in progress. While access control is off there are no verified tokens, so that
    nobody may know of private assets, and none are taken.

    Whoever may not know of an asset is answered as if it were not there, to the letter.
    """

    def sees(self) -> bool:
        """
        Whether the caller may know of private assets and have their bytes.
        """
        known = identity()
        return known is not None and _READ in known.scopes

    def signs(self) -> bool:
        """
        Whether the caller may give others access to private assets, which takes the scope of the RPC that does so.
        """
        known = identity()
        return known is not None and known is not ANYBODY

    def check_upload(self, *, private: bool) -> None:
        """
        Raises:
            FailedPrecondition: nothing can be kept private here (PRIVATE_NEEDS_ACCESS).
        """
        if private and identity() is None:
            raise FailedPrecondition(
                "PRIVATE_NEEDS_ACCESS",
                "nothing can be kept private while calls need no token: set MODELYARD_ACCESS to on or read-public, "
                "or store it publicly",
            )

    def check_watch(self) -> None:
        """
        Changes name private assets, and a watcher must be told all of them or none.

        Raises:
            Unauthenticated, PermissionDenied: the caller may not know of private assets.
        """
        known = identity()
        if known is ANYBODY:
            raise Unauthenticated("TOKEN_MISSING", "the changes of assets name private ones: this call needs a token")
        if known is not None and _READ not in known.scopes:
            raise PermissionDenied("SCOPE_MISSING", f"this call needs the scope {_READ}", metadata={"scope": _READ})

    async def read(self, context: Context, sha256: str, reading: Coroutine[Any, Any, Read[Asset]]) -> Asset:
        """
        Await the reading of an asset, as far as the caller may know of it, and say which revision it reflects. What
        others would be answered otherwise is marked as the caller's own, for caches (RFC 9111, section 5.2.2.7).

        Raises:
            NotFound: there is no such asset, or the caller may not know of it.
        """
        sees, alike = self.sees(), identity() is None
        try:
            asset = (await reflect(context, _seen(reading) if not sees else reading)).value
        except Missing as error:
            # Where everybody is answered alike, absence may be kept by a cache. Where it depends on who asks, nothing
            # may tell what is hidden from what is absent, and neither may a cache that keeps only one of them.
            if sees or alike:
                raise
            _own(context)
            raise hidden(sha256) from error
        if asset.private:
            _own(context)
        return asset


def hidden(sha256: str) -> NotFound:
    """
    What those are told who may not know whether there is a private asset.
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
        # No revision is said of what is hidden, and so none of what is absent.
        error.revision = None
        raise
    if found.value.private:
        raise Missing("ASSET_NOT_FOUND", found.value.name, found.revision if identity() is None else None)
    return found


def _own(context: Context) -> None:
    context.set_trailing_metadata((*context.trailing_metadata(), ("cache-control", "private")))
