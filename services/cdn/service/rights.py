"""
Who may see which asset: see docs/adr/0047.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from services.cdn.model import Asset
from services.cdn.store.records import Records
from services.cdn.store.viewers import Viewer
from services.chassis.access import ANYBODY
from services.chassis.access.behalf import caller_of
from services.chassis.access.policies import Policies
from services.chassis.errors import FailedPrecondition, NotFound, PermissionDenied, Unauthenticated, Unavailable
from services.chassis.interceptors import current_call, identity
from services.chassis.interceptors.permissions import denied
from services.chassis.serving.context import Context
from services.ledger.model.calls import Missing, Read
from services.ledger.service.calls import reflect

_READ: Final = "assets.read"
_PIN: Final = "assets.pin"
T = TypeVar("T")


class Rights:
    """
    What the caller of the current call may see: what is pinned by versions of namespaces that it may read, and what it
    has uploaded; private assets only with a token. While access control is off there are no verified tokens: everybody
    sees everything, except private assets, which cannot be uploaded either.

    Callers who may not see an asset get exactly the response for an asset that does not exist.

    Args:
        policies: of all namespaces.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def viewer(self, *, signing: bool = False) -> Viewer:
        """
        What the caller may see. Services that call on their own behalf, and break-glass access, see everything, whether
        or not the policies are up to date.

        Args:
            signing: it presigns a URL, for which it has the scope: private assets need no other one.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        caller = identity()
        if caller is None:
            return Viewer()
        private = _READ in caller.scopes or (signing and caller is not ANYBODY)
        if _PIN in caller.scopes and (call := current_call()) is not None:
            # The registry: a version must not name an asset that its writer may not see.
            other = caller_of(call.context)
            if other is None:
                return Viewer(private=True)
            caller, private = other, True
        if caller.is_admin or caller.is_follower:
            return Viewer(private=private)
        return Viewer(self._policies.readable(caller), caller.subject, private)

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

    def check_everything(self, permission: str = _READ) -> None:
        """
        Changes name all assets, and a watcher must get all of them or none.

        Raises:
            Unauthenticated, PermissionDenied: the caller may not see all assets.
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        known = identity()
        if known is None:
            return
        if known is ANYBODY:
            raise Unauthenticated("TOKEN_MISSING", "changes may name private assets: this call needs a token")
        if _READ not in known.scopes:
            raise PermissionDenied("SCOPE_MISSING", f"this call needs the scope {_READ}", metadata={"scope": _READ})
        if not self.viewer().readable.everything:
            raise denied(permission, "")

    async def read(self, context: Context, viewer: Viewer, records: Records, sha256: str) -> Asset:
        """
        Read an asset if the viewer may see it, and report the revision of the response.

        Raises:
            NotFound: there is no such asset, or the viewer may not see it.
        """
        asset = await self.found(context, viewer, records.get(sha256, viewer))
        if asset.private and viewer.readable.everything:
            _own(context)
        return asset

    async def found(self, context: Context, viewer: Viewer, reading: Coroutine[Any, Any, Read[T]]) -> T:
        """
        Await a read of what a viewer may see, and report the revision of the response. Responses that depend on the
        caller are marked `Cache-Control: private` (RFC 9111, section 5.2.2.7).

        Raises:
            NotFound: it does not exist, or the viewer may not see it.
        """
        # Without access control, caches may store a negative response.
        alike = viewer.sees_everything or identity() is None
        try:
            value = (await reflect(context, reading if alike else _without_revision(reading))).value
        except Missing as error:
            if alike:
                raise
            _own(context)
            message = f"{error.resource} does not exist, or this caller may not see it"
            raise NotFound(error.reason, error.resource, message) from error
        if not viewer.readable.everything:
            _own(context)
        return value

    async def still_sees(self, records: Records, sha256: str, before: Viewer) -> Viewer:
        """
        Check during a long response that the caller may still see the asset. While that cannot be decided, the response
        goes on: it could when it began.

        Args:
            before: the viewer of the last check.

        Returns:
            The viewer of this one.

        Raises:
            PermissionDenied: the right to see it has been revoked (PERMISSION_REVOKED).
        """
        try:
            viewer = self.viewer()
        except Unavailable:
            return before
        if viewer != before:
            try:
                await records.get_now(sha256, viewer)
            except Missing:
                raise PermissionDenied("PERMISSION_REVOKED", "the permission to read this has been revoked") from None
        return viewer


async def _without_revision(reading: Coroutine[Any, Any, Read[T]]) -> Read[T]:
    try:
        return await reading
    except Missing as error:
        error.revision = None
        raise


def _own(context: Context) -> None:
    context.set_trailing_metadata((*context.trailing_metadata(), ("cache-control", "private")))
